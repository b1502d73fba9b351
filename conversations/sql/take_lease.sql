-- Lets `runner` hold a conversation without a turn, to warm it up. Answers the epoch, or null when another
-- runner holds it, its files lie elsewhere, or a turn runs: that one has its process, or is lost and still to be
-- ended, which renewing its lease would prevent. Nor is it for a host that may not take the tenant's turns.
DECLARE
    picked record;
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM conversations_runnerhost h JOIN tenants_tenant ten ON ten.id = of_tenant
        WHERE h.name = runner AND host_takes(h, ten.least_tier, h.any_tenant OR ten.id = (
            SELECT t.id FROM tenants_tenant t ORDER BY t.created_at, t.id LIMIT 1)))
    THEN
        RETURN NULL;
    END IF;
    SELECT c.epoch, c.holder, c.lease_until INTO picked FROM conversations_conversation c
    WHERE c.id = of_conversation AND c.tenant_id = of_tenant AND c.holder IN ('', runner)
      AND c.files_on IN ('', runner)
      AND NOT EXISTS (
          SELECT 1 FROM conversations_turn t
          WHERE t.conversation_id = c.id AND t.state IN ('running', 'waiting'))
    FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF picked.holder <> runner OR picked.lease_until <= clock_timestamp() THEN
        picked.epoch := picked.epoch + 1;
    END IF;
    UPDATE conversations_conversation c
    SET holder = runner, lease_until = clock_timestamp() + lease, epoch = picked.epoch
    WHERE c.id = of_conversation;
    RETURN picked.epoch;
END
