-- Gives a conversation back (its process is gone), unless it was taken over or still runs a turn.
BEGIN
    UPDATE conversations_conversation c SET holder = '', lease_until = NULL
    WHERE c.id = of_conversation AND c.holder = runner AND c.epoch = of_epoch
      AND NOT EXISTS (
          SELECT 1 FROM conversations_turn t
          WHERE t.conversation_id = c.id AND t.state IN ('running', 'waiting'));
    RETURN FOUND;
END
