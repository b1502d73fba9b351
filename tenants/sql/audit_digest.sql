CREATE FUNCTION audit_digest(before bytea, event tenants_auditevent) RETURNS bytea
    LANGUAGE sql STABLE SET search_path = public, pg_temp
    AS $digest$
        SELECT sha256(before || convert_to(jsonb_build_array(
            event.tenant_id, event.number, to_char(event.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'),
            event.act, event.via, event.actor_id, event.key_id, event.about, event.details
        )::text, 'UTF8'))
    $digest$;
