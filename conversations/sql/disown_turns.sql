-- Lets go of the turns that `runner` holds and does not know of: it was given them, and the answer got lost.
-- The epoch rises, so that a lease that it does know of is not renewed any more; end_lost_turns() does the rest.
BEGIN
    UPDATE conversations_conversation c SET lease_until = clock_timestamp(), epoch = c.epoch + 1
    WHERE c.holder = runner AND EXISTS (
        SELECT 1 FROM conversations_turn t
        WHERE t.conversation_id = c.id AND t.state IN ('running', 'waiting') AND t.id <> ALL(known));
END
