-- Gives `runner`, while its name is this `process`'s, the oldest queued turn that it may run, of the tenant that has fewest running there, or nothing. Takes or renews the lease on the
-- conversation, raises the epoch on a takeover, and writes `turn.started`, all in one statement's time.
-- Without `take_new` only conversations that the runner holds already are looked at (it has no room).
-- A conversation whose files lie on another host is left to that host while it lives, and for as long as a
-- restart takes. One tenant among several has at most half of a host's places. A tenant's turns go only to a host that has published, and lately proved, a tier good enough.
DECLARE
    picked record;
    me conversations_runnerhost;
    only_tenant uuid;
    wanted text[];
    most bigint;
    started timestamptz := clock_timestamp();
    new_epoch bigint;
BEGIN
    SELECT h.* INTO me FROM conversations_runnerhost h WHERE h.name = runner AND h.instance = process;
    wanted := ARRAY(
        SELECT least_tier FROM unnest(ARRAY['', 'bubblewrap-uid', 'bubblewrap', 'landlock', 'none']) AS least_tier
        WHERE host_takes(me, least_tier, true));
    IF wanted = '{}' THEN
        RETURN NULL;
    END IF;
    IF NOT me.any_tenant THEN
        SELECT t.id INTO only_tenant FROM tenants_tenant t ORDER BY t.created_at, t.id LIMIT 1;
    END IF;

    IF me.places > 0 AND (SELECT count(*) FROM (SELECT 1 FROM tenants_tenant LIMIT 2) AS two) > 1 THEN
        most := (me.places + 1) / 2;
    END IF;

    WITH busy AS MATERIALIZED (
        SELECT b.tenant_id, count(*) AS turns FROM conversations_turn b
        JOIN conversations_conversation held ON held.id = b.conversation_id
        WHERE b.state IN ('running', 'waiting') AND held.holder = runner GROUP BY b.tenant_id)
    SELECT t.id AS turn_id, t.tenant_id, t.conversation_id, t.author_id, t.prompt, t.client_id, t.created_at,
           c.epoch, c.holder, c.lease_until, c.last_seq, c.model, c.permission_mode,
           c.files_on, a.model AS assistant_model, a.system_prompt,
           EXISTS (SELECT 1 FROM conversations_turn before
                   WHERE before.conversation_id = t.conversation_id AND before.number = t.number - 1
                     AND before.state = 'interrupted' AND before.stop_reason = 'runner_lost') AS after_loss
    INTO picked
    FROM conversations_turn t
    JOIN conversations_conversation c ON c.id = t.conversation_id
    JOIN conversations_assistant a ON a.id = c.assistant_id
    JOIN tenants_tenant ten ON ten.id = t.tenant_id
    LEFT JOIN busy ON busy.tenant_id = t.tenant_id
    WHERE t.state = 'queued' AND (most IS NULL OR coalesce(busy.turns, 0) < most)
      AND ten.least_tier = ANY(wanted) AND (me.any_tenant OR t.tenant_id = only_tenant)
      AND NOT EXISTS (
          SELECT 1 FROM conversations_turn other
          WHERE other.conversation_id = t.conversation_id
            AND (other.state IN ('running', 'waiting') OR (other.state = 'queued' AND other.number < t.number)))
      AND ((c.holder = runner AND c.lease_until > started)
           OR (take_new AND (c.holder IN ('', runner))
               AND (c.files_on IN ('', runner)
                    OR (t.created_at < started - interval '15 seconds' AND NOT EXISTS (
                        SELECT 1 FROM conversations_runnerhost h
                        WHERE h.name = c.files_on AND h.seen_at > started - interval '15 seconds')))))
    ORDER BY coalesce(busy.turns, 0), t.created_at
    LIMIT 1
    FOR UPDATE OF c, t SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    new_epoch := picked.epoch + (NOT (picked.holder = runner AND picked.lease_until > started))::int;
    UPDATE conversations_conversation c
    SET holder = runner, lease_until = clock_timestamp() + lease, epoch = new_epoch,
        last_seq = picked.last_seq + 1, updated_at = started
    WHERE c.id = picked.conversation_id;
    UPDATE conversations_turn t SET state = 'running', started_at = started, waits_for = '' WHERE t.id = picked.turn_id;
    INSERT INTO conversations_event (tenant_id, conversation_id, seq, turn_id, type, data, at)
    VALUES (picked.tenant_id, picked.conversation_id, picked.last_seq + 1, picked.turn_id, 'turn.started',
            jsonb_build_object('prompt', picked.prompt, 'author', picked.author_id,
                               'client_id', picked.client_id), started);
    RETURN jsonb_build_object(
        'tenant', picked.tenant_id, 'conversation', picked.conversation_id, 'turn', picked.turn_id,
        'author', picked.author_id, 'client_id', picked.client_id, 'prompt', picked.prompt,
        'epoch', new_epoch, 'seq', picked.last_seq + 1, 'at', started, 'files_on', picked.files_on,
        'model', coalesce(nullif(picked.model, ''), picked.assistant_model),
        'system_prompt', picked.system_prompt, 'permission_mode', picked.permission_mode,
        'after_loss', picked.after_loss,
        -- The same choice as CredentialQuerySet.usable_by; nothing secret goes through here.
        'credential_kind', (
            SELECT k.kind FROM tenants_credential k
            WHERE k.tenant_id = picked.tenant_id AND (k.member_id = picked.author_id OR k.member_id IS NULL)
            ORDER BY k.is_default DESC, k.member_id NULLS LAST, k.created_at LIMIT 1),
        'more', EXISTS (SELECT 1 FROM conversations_turn t WHERE t.state = 'queued' AND t.id <> picked.turn_id),
        'queued_ms', round(extract(epoch FROM started - picked.created_at) * 1000));
END
