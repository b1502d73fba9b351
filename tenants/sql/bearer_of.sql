-- Whom an API key acts as: nobody, if it has expired, or its member has left or may not sign in.
BEGIN
    RETURN QUERY
        SELECT k.id, k.last_used_at, k.scopes::text[], t.id, t.slug::text, m.id, m.user_id, m.role::text
        FROM tenants_apikey k
        JOIN tenants_tenant t ON t.id = k.tenant_id
        JOIN tenants_membership m ON m.tenant_id = k.tenant_id AND m.id = k.member_id
        JOIN tenants_user u ON u.id = m.user_id
        WHERE k.digest = key_digest AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
          AND m.left_at IS NULL AND u.is_active;
END
