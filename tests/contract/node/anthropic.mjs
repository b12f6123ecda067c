// Anthropic's official client: messages, streams, tools. Prints what it saw as JSON.
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({
  baseURL: process.env.GATEWAY_URL,
  apiKey: process.env.SESSION_TOKEN,
  maxRetries: 0,
});
const asked = {
  model: process.env.MODEL ?? "mock-small",
  max_tokens: 300,
  messages: [{ role: "user", content: "Please answer this customer: where is my order?" }],
};
const tools = [
  {
    name: "find_order",
    input_schema: { type: "object", properties: { id: { type: "string" } }, required: ["id"] },
  },
];
const seen = {};

const plain = await client.messages.create(asked);
seen.plain = { text: plain.content[0].text, usage: plain.usage, stop: plain.stop_reason };
const streamed = await client.messages.stream(asked).finalMessage();
seen.stream = { text: streamed.content[0].text, usage: streamed.usage, stop: streamed.stop_reason };
const called = await client.messages.stream({ ...asked, tools, tool_choice: { type: "any" } }).finalMessage();
seen.tool = called.content.find((block) => block.type === "tool_use");
try {
  await client.messages.create({ ...asked, model: "no-such-model" });
} catch (error) {
  seen.error = { name: error.constructor.name, status: error.status, id: error.requestID };
}
console.log(JSON.stringify(seen));
