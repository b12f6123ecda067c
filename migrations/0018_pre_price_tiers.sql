-- Prices of models without output (embeddings), and other prices above a number of input tokens or in hours of the day.
-- The table is small, and what it holds passes already.
-- squawk-ignore ban-drop-constraint
alter table price drop constraint price_max_output_tokens_check;
-- squawk-ignore constraint-missing-not-valid
alter table price add constraint price_max_output_tokens_check check (max_output_tokens >= 0);

-- Each tier: {"above_input_tokens"?, "from_minute"?, "until_minute"?, and the prices}. The last whose conditions hold
-- takes the place of the columns. Minutes are of the day in UTC. Gateways check the rest when they read it.
alter table price add column tiers jsonb not null default '[]' check (jsonb_typeof(tiers) = 'array');
