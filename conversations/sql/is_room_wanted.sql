-- Whether a turn is queued for longer than `patience` that is the first of its conversation and waits for nothing else.
BEGIN
    RETURN EXISTS (
        SELECT 1 FROM conversations_turn t
        WHERE t.state = 'queued' AND t.waits_for = '' AND t.created_at < clock_timestamp() - patience
          AND NOT EXISTS (
              SELECT 1 FROM conversations_turn other
              WHERE other.conversation_id = t.conversation_id
                AND (other.state IN ('running', 'waiting') OR (other.state = 'queued' AND other.number < t.number))));
END
