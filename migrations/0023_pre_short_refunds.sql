-- A refund or charge-back that an operator enters by hand takes what the wallet has; the rest is written off.

alter table move disable trigger move_is_fixed;
insert into move (code, name, debit_kind, credit_kind) values (32, 'adjust_write_off', 'write_off', 'adjustments');
alter table move enable trigger move_is_fixed;

-- Take money back from a wallet, for the processor or (31) by an operator's hand: what is there beyond holds; the rest is
-- written off, and the wallet is frozen until an operator decides. Status as transfer_v1's; a repeat of the key gives
-- what was done then.
create or replace function take_back_v1(
    p_event uuid, p_code smallint, p_wallet bigint, p_amount bigint, p_key text, p_memo text,
    out status smallint, out taken bigint, out written_off bigint
) language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    v_to bigint;
    v_write_off bigint;
    v_wallet account%rowtype;
    v_done smallint[];
begin
    select a.id into v_to from account a
    where a.kind = case p_code when 31 then 'adjustments'::account_kind else 'stripe_clearing' end and a.currency = 'USD';
    select a.id into v_write_off from account a where a.kind = 'write_off' and a.currency = 'USD';
    perform from account where id in (p_wallet, v_to, v_write_off) order by kind = 'write_off', id for update;
    select coalesce(sum(t.amount_e8) filter (where t.key = p_key), 0),
        coalesce(sum(t.amount_e8) filter (where t.key <> p_key), 0)
    into taken, written_off from transfer t where t.key in (p_key, p_key || ':write_off');
    if taken + written_off > 0 then
        status := case when taken + written_off = p_amount then 4 else 5 end;
        return;
    end if;
    select * into v_wallet from account where id = p_wallet;
    if v_wallet.kind is distinct from 'wallet' or p_code not in (20, 22, 31) or p_amount is null or p_amount <= 0 then
        status := 6;
        return;
    end if;
    taken := least(p_amount, v_wallet.posted_e8 - v_wallet.held_e8);
    written_off := p_amount - taken;
    status := 0;
    if taken > 0 then
        v_done := transfer_v1(array[p_event], array[p_code], array[p_wallet], array[v_to], array[taken],
            array[p_key], array[p_memo]);
        status := v_done[1];
    end if;
    if status = 0 and written_off > 0 then
        v_done := transfer_v1(array[p_event], array[p_code + 1]::smallint[], array[v_write_off], array[v_to],
            array[written_off], array[p_key || ':write_off'], array[p_memo]);
        status := v_done[1];
        update account set frozen_at = coalesce(frozen_at, now()) where id = p_wallet;
    end if;
end
$$;
