-- Renews what `runner` still holds under these epochs; answers the conversations that are still its own.
BEGIN
    PERFORM 1 FROM conversations_conversation c WHERE c.id = ANY(ids) ORDER BY c.id FOR UPDATE;
    RETURN QUERY
        UPDATE conversations_conversation c SET lease_until = clock_timestamp() + lease
        FROM unnest(ids, epochs) AS mine(id, epoch)
        WHERE c.id = mine.id AND c.holder = runner AND c.epoch = mine.epoch
        RETURNING c.id;
END
