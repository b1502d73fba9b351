-- Deletes what people wanted of turns (controls) and what these asked (questions), once it was settled so long ago;
-- at most so many of each. How many went of the one that had more.
DECLARE
    controls integer;
    questions integer;
BEGIN
    DELETE FROM conversations_control k WHERE k.id IN (
        SELECT old.id FROM conversations_control old
        WHERE old.taken_at < clock_timestamp() - older_than LIMIT most FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS controls = ROW_COUNT;
    DELETE FROM conversations_permissionrequest p WHERE p.id IN (
        SELECT old.id FROM conversations_permissionrequest old
        WHERE old.decided_at < clock_timestamp() - older_than LIMIT most FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS questions = ROW_COUNT;
    RETURN greatest(controls, questions);
END
