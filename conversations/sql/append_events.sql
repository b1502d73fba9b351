-- The recorder's only write. `batch` is an array, in order, of
--   {tenant, conversation, epoch, ordinal, turn, type, data}.
-- Locks the conversations, refuses what carries another tenant or a former epoch, ignores what it has taken
-- already, numbers the rest, and changes the turn's state with its event.
-- Nobody's row is waited for: the events of all tenants would wait with it. What belongs to a conversation that
-- somebody holds at this moment is left alone as a whole, `busy`, to be written later; where it is another row of one,
-- all of the batch fails after half a second, and each conversation is tried by itself.
-- Answers one row for each item: its seq and time, or nulls where it was refused or is busy.
DECLARE
    free uuid[];
    state_change record;
BEGIN
    PERFORM set_config('lock_timeout', '500ms', true);
    free := ARRAY(
        SELECT c.id FROM conversations_conversation c
        WHERE c.id IN (SELECT (e->>'conversation')::uuid FROM jsonb_array_elements(batch) e)
        ORDER BY c.id FOR NO KEY UPDATE SKIP LOCKED);

    FOR state_change IN
        WITH items AS (
            SELECT i.place, (i.e->>'tenant')::uuid AS tenant_id, (i.e->>'conversation')::uuid AS conversation_id,
                   (i.e->>'epoch')::bigint AS epoch, (i.e->>'ordinal')::bigint AS ordinal,
                   (i.e->>'turn')::uuid AS turn_id, i.e->>'type' AS type, i.e->'data' AS data
            FROM jsonb_array_elements(batch) WITH ORDINALITY AS i(e, place)
        ), numbered AS (
            SELECT items.*, c.last_seq + row_number() OVER (PARTITION BY c.id ORDER BY items.place) AS seq
            FROM items
            JOIN conversations_conversation c
              ON c.id = items.conversation_id AND c.tenant_id = items.tenant_id AND c.epoch = items.epoch
            WHERE c.id = ANY(free) AND NOT EXISTS (
                SELECT 1 FROM conversations_event x
                WHERE x.conversation_id = items.conversation_id
                  AND x.epoch = items.epoch AND x.ordinal = items.ordinal)
        ), inserted AS (
            INSERT INTO conversations_event AS new
                   (tenant_id, conversation_id, seq, turn_id, type, data, at, epoch, ordinal)
            SELECT n.tenant_id, n.conversation_id, n.seq, n.turn_id, n.type, n.data, clock_timestamp(),
                   n.epoch, n.ordinal
            FROM numbered n
            RETURNING new.tenant_id, new.conversation_id, new.seq, new.turn_id, new.type, new.data, new.at
        ), counted AS (
            UPDATE conversations_conversation c SET last_seq = top.seq
            FROM (SELECT n.conversation_id, max(n.seq) AS seq FROM numbered n GROUP BY 1) top
            WHERE c.id = top.conversation_id
        )
        SELECT * FROM inserted i
        WHERE i.type IN ('turn.completed', 'turn.failed', 'turn.interrupted',
                         'permission.requested', 'permission.resolved')
        ORDER BY i.seq
    LOOP
        IF state_change.type = 'permission.requested' THEN
            INSERT INTO conversations_permissionrequest
                   (id, tenant_id, conversation_id, turn_id, asked_at, decision)
            VALUES ((state_change.data->>'request')::uuid, state_change.tenant_id,
                    state_change.conversation_id, state_change.turn_id, state_change.at, '');
            UPDATE conversations_turn t SET state = 'waiting'
            WHERE t.id = state_change.turn_id AND t.tenant_id = state_change.tenant_id
              AND t.conversation_id = state_change.conversation_id AND t.state = 'running';
        ELSIF state_change.type = 'permission.resolved' THEN
            UPDATE conversations_turn t SET state = 'running'
            WHERE t.id = state_change.turn_id AND t.tenant_id = state_change.tenant_id
              AND t.conversation_id = state_change.conversation_id AND t.state = 'waiting'
              AND NOT EXISTS (
                  SELECT 1 FROM conversations_permissionrequest p
                  WHERE p.turn_id = t.id AND p.conversation_id = t.conversation_id AND p.decision = '');
        ELSE
            UPDATE conversations_turn t
            SET state = substr(state_change.type, 6), ended_at = state_change.at,
                stop_reason = coalesce(state_change.data->>'stop_reason', ''),
                usage = coalesce(state_change.data->'usage', '{}'),
                cost_usd = (state_change.data->>'cost_usd')::numeric,
                timing = coalesce(state_change.data->'timing', '{}'),
                error = nullif(state_change.data->'error', 'null')
            WHERE t.id = state_change.turn_id AND t.tenant_id = state_change.tenant_id
              AND t.conversation_id = state_change.conversation_id AND t.state IN ('running', 'waiting');
            UPDATE conversations_permissionrequest p
            SET decision = 'expired', decided_at = state_change.at
            WHERE p.turn_id = state_change.turn_id AND p.tenant_id = state_change.tenant_id
              AND p.conversation_id = state_change.conversation_id AND p.decision = '';
            UPDATE conversations_conversation c SET updated_at = state_change.at
            WHERE c.id = state_change.conversation_id;
        END IF;
    END LOOP;

    RETURN QUERY
        SELECT (i.e->>'conversation')::uuid, (i.e->>'ordinal')::bigint, x.seq, x.at,
               x.seq IS NULL AND (i.e->>'conversation')::uuid <> ALL(free) AND EXISTS (
                   SELECT 1 FROM conversations_conversation c WHERE c.id = (i.e->>'conversation')::uuid)
        FROM jsonb_array_elements(batch) WITH ORDINALITY AS i(e, place)
        LEFT JOIN conversations_event x
          ON x.conversation_id = (i.e->>'conversation')::uuid AND x.epoch = (i.e->>'epoch')::bigint
         AND x.ordinal = (i.e->>'ordinal')::bigint AND x.tenant_id = (i.e->>'tenant')::uuid
        ORDER BY i.place;
END
