-- The controls that wait for conversations of `runner`; each is given out once.
BEGIN
    RETURN QUERY
        UPDATE conversations_control k SET taken_at = clock_timestamp()
        FROM conversations_conversation c
        WHERE k.taken_at IS NULL AND c.id = k.conversation_id AND c.holder = runner
        RETURNING jsonb_build_object('id', k.id, 'tenant', k.tenant_id, 'conversation', k.conversation_id,
                                     'turn', k.turn_id, 'kind', k.kind, 'data', k.data);
END
