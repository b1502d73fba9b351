-- Renews what `runner` still holds under these epochs; answers the conversations that are still its own.
-- One whose tenant asks for a stronger sandbox by now is let go, once no turn of it runs.
BEGIN
    PERFORM 1 FROM conversations_conversation c WHERE c.id = ANY(ids) ORDER BY c.id FOR UPDATE;
    RETURN QUERY
        UPDATE conversations_conversation c SET lease_until = clock_timestamp() + lease
        FROM unnest(ids, epochs) AS mine(id, epoch)
        WHERE c.id = mine.id AND c.holder = runner AND c.epoch = mine.epoch
          AND (NOT EXISTS (
                  SELECT 1 FROM conversations_runnerhost h JOIN tenants_tenant ten ON ten.id = c.tenant_id
                  WHERE h.name = runner AND NOT tier_suffices(h.tier, ten.least_tier))
               OR EXISTS (
                  SELECT 1 FROM conversations_turn t
                  WHERE t.conversation_id = c.id AND t.state IN ('running', 'waiting')))
        RETURNING c.id;
END
