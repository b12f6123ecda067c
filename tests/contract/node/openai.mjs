// OpenAI's official client: chat, streams, tools, structured output, responses, models. Prints what it saw as JSON.
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.GATEWAY_URL + "/v1",
  apiKey: process.env.SESSION_TOKEN,
  maxRetries: 0,
});
const model = process.env.MODEL ?? "mock-small";
const messages = [{ role: "user", content: "Please answer this customer: where is my order?" }];
const parameters = {
  type: "object",
  properties: { id: { type: "string" } },
  required: ["id"],
  additionalProperties: false,
};
const seen = {};

const plain = await client.chat.completions.create({ model, messages });
seen.plain = { text: plain.choices[0].message.content, usage: plain.usage, price: plain.modelfaucet.price_usd };

const stream = await client.chat.completions.create({
  model,
  messages,
  stream: true,
  stream_options: { include_usage: true },
});
seen.stream = { text: "" };
for await (const chunk of stream) {
  seen.stream.text += chunk.choices[0]?.delta?.content ?? "";
  if (chunk.usage) seen.stream.usage = chunk.usage;
}

const called = await client.chat.completions.create({
  model,
  messages,
  tools: [{ type: "function", function: { name: "find_order", parameters } }],
  tool_choice: "required",
});
seen.tool = called.choices[0].message.tool_calls[0].function;

const structured = await client.chat.completions.create({
  model,
  messages,
  response_format: { type: "json_schema", json_schema: { name: "reply", strict: true, schema: parameters } },
});
seen.structured = JSON.parse(structured.choices[0].message.content);

const response = await client.responses.create({ model, input: messages[0].content });
seen.response = { text: response.output_text, usage: response.usage };
seen.events = [];
for await (const event of await client.responses.create({ model, input: messages[0].content, stream: true })) {
  seen.events.push(event.type);
}

seen.models = [];
for await (const each of client.models.list()) seen.models.push(each.id);

try {
  await client.chat.completions.create({ model: "no-such-model", messages });
} catch (error) {
  seen.error = { name: error.constructor.name, status: error.status, code: error.code, id: error.requestID };
}
console.log(JSON.stringify(seen));
