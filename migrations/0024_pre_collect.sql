-- What is paid by hand leaves our bank, not the processor; what the processor pays to our bank may come back, or it draws
-- from there what it lacks. So stripe_clearing is what the processor has of ours, and can be compared with it.

alter table move disable trigger move_is_fixed;
insert into move (code, name, debit_kind, credit_kind) values
    (41, 'payout_paid', 'payout_clearing', 'bank'),
    (43, 'payout_returned', 'bank', 'earnings'),
    (52, 'collect_returned', 'stripe_clearing', 'bank');
alter table move enable trigger move_is_fixed;

-- Payouts that were paid by hand until now, as if they had left the processor.
do $$
declare
    v_stripe bigint := (select a.id from account a where a.kind = 'stripe_clearing' and a.currency = 'USD');
    v_bank bigint := (select a.id from account a where a.kind = 'bank' and a.currency = 'USD');
    v_payout record;
    v_status smallint;
begin
    for v_payout in
        select p.id, t.amount_e8 from payout p join transfer t on t.event_id = p.id and t.code = 41
        where p.provider = 'manual' and p.status = 'paid' and t.credit_id = v_stripe order by p.id
    loop
        select s.status[1] into v_status from transfer_v1(array[gen_random_uuid()], array[52::smallint], array[v_stripe],
            array[v_bank], array[v_payout.amount_e8], array['paid-by-hand:' || v_payout.id],
            array['paid by hand, from the bank']) s;
        if v_status not in (0, 4) then
            raise exception 'the payout % can''t be moved to the bank: %', v_payout.id, v_status;
        end if;
    end loop;
end
$$;
