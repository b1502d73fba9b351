-- Conversations of which something can be packed: their oldest loose event is old, and its turn has ended. In any
-- order, so that those where it fails stand before the others no longer than a run.
BEGIN
    RETURN QUERY
        SELECT oldest.tenant_id, oldest.conversation_id FROM (
            SELECT DISTINCT ON (e.conversation_id) e.tenant_id, e.conversation_id, e.turn_id, e.at
            FROM conversations_event e ORDER BY e.conversation_id, e.seq) AS oldest
        WHERE oldest.at < clock_timestamp() - older_than
          AND NOT EXISTS (
              SELECT 1 FROM conversations_turn t
              WHERE t.id = oldest.turn_id AND t.state IN ('queued', 'running', 'waiting'))
        ORDER BY random() LIMIT most;
END
