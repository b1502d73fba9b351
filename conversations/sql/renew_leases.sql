-- Renews what `runner` still holds under these epochs; answers the conversations that are still its own.
-- `busy`: its own still, and not renewed, as somebody holds its row at this moment. Nobody's row is waited for: the
-- leases of all tenants would end with it.
-- One whose tenant asks for a stronger sandbox by now is let go, once no turn of it runs.
DECLARE
    free uuid[];
BEGIN
    free := ARRAY(SELECT c.id FROM conversations_conversation c WHERE c.id = ANY(ids) FOR NO KEY UPDATE SKIP LOCKED);
    RETURN QUERY
        UPDATE conversations_conversation c SET lease_until = clock_timestamp() + lease
        FROM unnest(ids, epochs) AS mine(id, epoch)
        WHERE c.id = mine.id AND c.id = ANY(free) AND c.holder = runner AND c.epoch = mine.epoch
          AND (NOT EXISTS (
                  SELECT 1 FROM conversations_runnerhost h JOIN tenants_tenant ten ON ten.id = c.tenant_id
                  WHERE h.name = runner AND NOT tier_suffices(h.tier, ten.least_tier))
               OR EXISTS (
                  SELECT 1 FROM conversations_turn t
                  WHERE t.conversation_id = c.id AND t.state IN ('running', 'waiting')))
        RETURNING c.id, false;
    RETURN QUERY
        SELECT c.id, true FROM conversations_conversation c
        JOIN unnest(ids, epochs) AS mine(id, epoch) ON c.id = mine.id AND c.epoch = mine.epoch
        WHERE c.holder = runner AND c.id <> ALL(free);
END
