-- Where an invitation's link leads, as long as it is good.
BEGIN
    RETURN QUERY
        SELECT i.id, t.id, t.slug::text, t.name::text, i.email::text, i.role::text, u.email::text
        FROM tenants_invitation i
        JOIN tenants_tenant t ON t.id = i.tenant_id
        JOIN tenants_membership m ON m.tenant_id = i.tenant_id AND m.id = i.invited_by_id
        JOIN tenants_user u ON u.id = m.user_id
        WHERE i.digest = token_digest AND i.expires_at > clock_timestamp() AND m.left_at IS NULL AND u.is_active;
END
