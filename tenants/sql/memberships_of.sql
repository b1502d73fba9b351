-- The tenants that a person belongs to, by slug.
BEGIN
    RETURN QUERY
        SELECT t.id, t.slug::text, t.name::text, m.id, m.user_id, m.role::text
        FROM tenants_membership m
        JOIN tenants_tenant t ON t.id = m.tenant_id
        JOIN tenants_user u ON u.id = m.user_id
        WHERE m.user_id = person AND m.left_at IS NULL AND u.is_active
        ORDER BY t.slug;
END
