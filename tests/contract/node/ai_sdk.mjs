// Vercel's AI SDK through its OpenAI-compatible provider: streamText, tools with a second step, generateText.
// Prints what it saw as JSON.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const provider = createOpenAICompatible({
  name: "modelfaucet",
  baseURL: process.env.GATEWAY_URL + "/v1",
  apiKey: process.env.SESSION_TOKEN,
  includeUsage: true,
});
const model = provider(process.env.MODEL ?? "mock-small");
const prompt = "Please answer this customer: where is my order?";
const seen = {};

const streamed = streamText({ model, prompt, maxRetries: 0 });
seen.stream = { text: "" };
for await (const text of streamed.textStream) seen.stream.text += text;
seen.stream.usage = await streamed.usage;
seen.stream.finish = await streamed.finishReason;

const plain = await generateText({ model, prompt, maxRetries: 0 });
seen.plain = { text: plain.text, usage: plain.usage };

seen.executed = [];
const withTools = streamText({
  model,
  prompt,
  maxRetries: 0,
  toolChoice: "required",
  stopWhen: stepCountIs(1),
  tools: {
    find_order: tool({
      description: "Find an order.",
      inputSchema: z.object({ id: z.string() }),
      execute: async ({ id }) => {
        seen.executed.push(id);
        return { id, state: "shipped" };
      },
    }),
  },
});
await withTools.consumeStream();
seen.calls = (await withTools.toolCalls).map((call) => ({ name: call.toolName, input: call.input }));

try {
  await generateText({ model: provider("no-such-model"), prompt, maxRetries: 0 });
} catch (error) {
  seen.error = { status: error.statusCode, text: error.message };
}
console.log(JSON.stringify(seen));
