-- Runs as the transaction of an event commits, last of all it does: nobody waits for a number longer than that.
DECLARE
    last record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('audit of ' || NEW.tenant_id, 0));
    SELECT e.number, e.digest INTO last FROM tenants_auditevent e
        WHERE e.tenant_id = NEW.tenant_id AND e.number IS NOT NULL ORDER BY e.number DESC LIMIT 1;
    NEW.number := coalesce(last.number, 0) + 1;
    UPDATE tenants_auditevent e
        SET number = NEW.number, digest = audit_digest(coalesce(last.digest, ''), NEW) WHERE e.id = NEW.id;
    RETURN NULL;
END
