// OpenAI's official client asking for embeddings. Prints what it saw as JSON.
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.GATEWAY_URL + "/v1",
  apiKey: process.env.SESSION_TOKEN,
  maxRetries: 0,
});
const found = await client.embeddings.create({ model: process.env.MODEL, input: ["one", "two words"] });
console.log(
  JSON.stringify({
    sizes: found.data.map((row) => row.embedding.length),
    tokens: found.usage.total_tokens,
    price: found.modelfaucet.price_usd,
  }),
);
