-- Takes expired leases away and ends the turns that ran under them as `interrupted`, with what was said kept.
-- The epoch rises, so that a former holder that wakes up writes nothing more. Answers the events written.
DECLARE
    lost record;
    turn record;
    ended timestamptz;
    says jsonb := jsonb_build_object(
        'stop_reason', 'runner_lost', 'usage', '{}'::jsonb, 'cost_usd', NULL, 'timing', '{}'::jsonb,
        'error', jsonb_build_object('type', 'api_error', 'message',
            'The machine that ran this turn was lost. What was said so far is kept; send the next message to go on.'));
BEGIN
    FOR lost IN
        SELECT c.id, c.last_seq FROM conversations_conversation c
        WHERE c.holder <> '' AND c.lease_until <= clock_timestamp()
        ORDER BY c.id FOR UPDATE SKIP LOCKED
    LOOP
        ended := clock_timestamp();
        UPDATE conversations_conversation c
        SET holder = '', lease_until = NULL, epoch = c.epoch + 1 WHERE c.id = lost.id;
        FOR turn IN
            UPDATE conversations_turn t
            SET state = 'interrupted', ended_at = ended, stop_reason = 'runner_lost', error = says->'error'
            WHERE t.conversation_id = lost.id AND t.state IN ('running', 'waiting')
            RETURNING t.id, t.tenant_id
        LOOP
            UPDATE conversations_permissionrequest p SET decision = 'expired', decided_at = ended
            WHERE p.turn_id = turn.id AND p.tenant_id = turn.tenant_id AND p.conversation_id = lost.id AND p.decision = '';
            UPDATE conversations_conversation c SET last_seq = lost.last_seq + 1, updated_at = ended
            WHERE c.id = lost.id;
            INSERT INTO conversations_event (tenant_id, conversation_id, seq, turn_id, type, data, at)
            VALUES (turn.tenant_id, lost.id, lost.last_seq + 1, turn.id, 'turn.interrupted', says, ended);
            RETURN NEXT jsonb_build_object(
                'type', 'turn.interrupted', 'conversation', lost.id, 'turn', turn.id,
                'seq', lost.last_seq + 1, 'at', ended) || says;
        END LOOP;
    END LOOP;
END
