-- Says why turns wait that no live host may take: writes a `status` event with the reason, once for each reason,
-- and takes it back when a host has come. `sentences` has the words for each reason. Turns that have only just
-- been queued, and those behind others of their conversation, have nothing to say. Answers the events written.
DECLARE
    told record;
    said timestamptz;
    says jsonb;
    only_tenant uuid;
BEGIN
    -- All webs and runners ask each second; one of them at a time is enough.
    IF NOT pg_try_advisory_xact_lock(hashtext('explain_waiting')) THEN
        RETURN;
    END IF;
    SELECT t.id INTO only_tenant FROM tenants_tenant t ORDER BY t.created_at, t.id LIMIT 1;
    FOR told IN
        SELECT t.id, t.tenant_id, t.conversation_id, c.last_seq, why.reason
        FROM conversations_turn t
        JOIN conversations_conversation c ON c.id = t.conversation_id
        JOIN tenants_tenant ten ON ten.id = t.tenant_id
        CROSS JOIN LATERAL (
            SELECT CASE
                WHEN bool_or(host_takes(h, ten.least_tier, h.any_tenant OR ten.id = only_tenant)) THEN ''
                WHEN bool_or(h.refuses = '' AND tier_suffices(h.tier, ten.least_tier)) THEN 'one_tenant'
                WHEN bool_or(h.refuses = '') THEN 'weak_sandbox'
                WHEN bool_or(true) THEN 'broken_sandbox'
                ELSE 'no_runner' END AS reason
            FROM conversations_runnerhost h
            WHERE h.seen_at > clock_timestamp() - interval '15 seconds'
              AND (c.files_on IN ('', h.name) OR NOT EXISTS (
                  SELECT 1 FROM conversations_runnerhost f
                  WHERE f.name = c.files_on AND f.seen_at > clock_timestamp() - interval '15 seconds'))
        ) AS why
        WHERE t.state = 'queued' AND t.created_at < clock_timestamp() - patience AND why.reason <> t.waits_for
          AND NOT EXISTS (
              SELECT 1 FROM conversations_turn other
              WHERE other.conversation_id = t.conversation_id
                AND (other.state IN ('running', 'waiting')
                     OR (other.state = 'queued' AND other.number < t.number)))
        ORDER BY t.created_at
        LIMIT 200
        FOR UPDATE OF c, t SKIP LOCKED
    LOOP
        said := clock_timestamp();
        says := CASE WHEN told.reason = '' THEN jsonb_build_object('state', 'queued', 'detail', '')
            ELSE jsonb_build_object('state', 'waiting_for_host', 'detail', sentences->>told.reason,
                                    'reason', told.reason) END;
        UPDATE conversations_turn t SET waits_for = told.reason WHERE t.id = told.id;
        UPDATE conversations_conversation c SET last_seq = told.last_seq + 1 WHERE c.id = told.conversation_id;
        INSERT INTO conversations_event (tenant_id, conversation_id, seq, turn_id, type, data, at)
        VALUES (told.tenant_id, told.conversation_id, told.last_seq + 1, told.id, 'status', says, said);
        RETURN NEXT jsonb_build_object('type', 'status', 'conversation', told.conversation_id, 'turn', told.id,
                                       'seq', told.last_seq + 1, 'at', said) || says;
    END LOOP;
END
