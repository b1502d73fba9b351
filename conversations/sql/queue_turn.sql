-- Stores a message as a queued turn, with its events, in one trip to the database. It runs as its caller: what
-- row-level security hides, and what is another author's, is not there (null); nor is anything for an author who has
-- left or may only read, whatever their socket still believes. `wanted` holds the title for a
-- conversation without one, and the model and permission mode asked for, if any. {"full": …}: too many wait, in the
-- `conversation` or of the `author`. Messages of one author come one after another, so that none slips past the count.
DECLARE
    held record;
    last_number integer;
    waiting integer;
    at_once timestamptz := clock_timestamp();
    changes jsonb;
    says jsonb := jsonb_build_object('prompt', content, 'author', of_author, 'client_id', client);
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(of_author::text, 0));
    SELECT c.last_seq, c.title, c.model, c.permission_mode, c.holder, c.lease_until INTO held
    FROM conversations_conversation c
    WHERE c.id = of_conversation AND c.author_id = of_author
      AND EXISTS (SELECT 1 FROM tenants_membership m
                  WHERE m.id = of_author AND m.left_at IS NULL AND m.role <> 'viewer')
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT coalesce(max(t.number), 0), count(*) FILTER (WHERE t.state = 'queued') INTO last_number, waiting
    FROM conversations_turn t WHERE t.conversation_id = of_conversation;
    IF waiting >= most_waiting THEN
        RETURN '{"full": "conversation"}';
    END IF;
    IF (SELECT count(*) FROM conversations_turn t WHERE t.author_id = of_author AND t.state = 'queued') >= most_of_author THEN
        RETURN '{"full": "author"}';
    END IF;

    INSERT INTO conversations_turn (id, tenant_id, conversation_id, number, author_id, client_id, digest, prompt,
                                    state, created_at, stop_reason, usage, timing)
    VALUES (new_turn, of_tenant, of_conversation, last_number + 1, of_author, client, fingerprint, content,
            'queued', at_once, '', '{}', '{}');
    INSERT INTO conversations_event (tenant_id, conversation_id, seq, turn_id, type, data, at)
    VALUES (of_tenant, of_conversation, held.last_seq + 1, new_turn, 'turn.queued', says, at_once);

    SELECT coalesce(jsonb_object_agg(w.key, w.value), '{}') INTO changes
    FROM jsonb_each_text(wanted) w
    WHERE (w.key = 'title' AND held.title = '' AND w.value <> '')
       OR (w.key = 'model' AND held.model <> w.value)
       OR (w.key = 'permission_mode' AND held.permission_mode <> w.value);
    IF changes <> '{}' THEN
        INSERT INTO conversations_event (tenant_id, conversation_id, seq, type, data, at)
        VALUES (of_tenant, of_conversation, held.last_seq + 2, 'conversation.updated', changes, at_once);
    END IF;
    UPDATE conversations_conversation c
    SET last_seq = held.last_seq + 1 + (changes <> '{}')::int, updated_at = at_once,
        title = coalesce(changes->>'title', c.title), model = coalesce(changes->>'model', c.model),
        permission_mode = coalesce(changes->>'permission_mode', c.permission_mode)
    WHERE c.id = of_conversation;

    RETURN jsonb_build_object(
        'says', says, 'changes', changes, 'at', at_once, 'last_seq', held.last_seq, 'is_first', last_number = 0,
        'holder', CASE WHEN held.lease_until > at_once THEN held.holder ELSE '' END);
END
