-- The controls that wait for conversations of `runner`, oldest first. Each is given out again until it comes back
-- in `done`: an answer that got lost on the way must not lose what a person wants. What its turn did not live to
-- see is done too.
BEGIN
    UPDATE conversations_control k SET taken_at = clock_timestamp()
    FROM conversations_conversation c
    WHERE k.taken_at IS NULL AND c.id = k.conversation_id AND c.holder = runner
      AND (k.id = ANY(done) OR (k.turn_id IS NOT NULL AND NOT EXISTS (
          SELECT 1 FROM conversations_turn t
          WHERE t.id = k.turn_id AND t.state IN ('running', 'waiting'))));
    RETURN QUERY
        SELECT jsonb_build_object('id', k.id, 'tenant', k.tenant_id, 'conversation', k.conversation_id,
                                  'turn', k.turn_id, 'kind', k.kind, 'data', k.data)
        FROM conversations_control k
        JOIN conversations_conversation c ON c.id = k.conversation_id
        WHERE k.taken_at IS NULL AND c.holder = runner
        ORDER BY k.id;
END
