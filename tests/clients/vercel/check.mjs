// The Vercel AI SDK against a running Gatehouse: GATEHOUSE_URL and GATEHOUSE_KEY say where. Prints one line a check; ends with 1 on a failure.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = `${process.env.GATEHOUSE_URL}/v1`;
const apiKey = process.env.GATEHOUSE_KEY;
const openai = createOpenAI({ baseURL, apiKey });
const compatible = createOpenAICompatible({ name: "gatehouse", baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true });

const weather = tool({
  description: "What the weather is in a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `21 degrees in ${city}`,
});
const person = z.object({ name: z.string(), age: z.number() });

async function speaks(model) {
  const whole = await generateText({ model, prompt: "hi", maxRetries: 0 });
  assert.equal(whole.text, "Hello there.");
  assert.equal(whole.usage.totalTokens, 18);
  const streamed = streamText({ model, prompt: "hi", maxRetries: 0 });
  let text = "";
  for await (const piece of streamed.textStream) text += piece;
  assert.equal(text, "Hello there.");
  assert.equal((await streamed.usage).totalTokens, 18);
}

async function usesTools(model) {
  const asked = { model, prompt: "What is the weather in Paris?", tools: { weather }, stopWhen: stepCountIs(3), maxRetries: 0 };
  const whole = await generateText(asked);
  assert.equal(whole.text, "It is 21 degrees in Paris.");
  assert.deepEqual(whole.steps[0].toolCalls[0].input, { city: "Paris" });
  const streamed = streamText(asked);
  assert.equal(await streamed.text, "It is 21 degrees in Paris.");
}

async function structures(model) {
  const { output } = await generateText({ model, prompt: "Ada is 36.", output: Output.object({ schema: person }), maxRetries: 0 });
  assert.deepEqual(output, { name: "Ada", age: 36 });
}

async function embeds(model) {
  const { embeddings } = await embedMany({ model, values: ["a", "bcd"], maxRetries: 0 });
  assert.deepEqual(embeddings, [[1, 0.5, -0.25], [3, 0.5, -0.25]]);
}

async function continues(model) {
  const { text } = await generateText({ model, prompt: "Once", maxRetries: 0 });
  assert.ok(text.includes("upon a time"));
}

async function fails(model) {
  await assert.rejects(generateText({ model, prompt: "hi", maxRetries: 0 }), (error) => error.statusCode === 404 && /no model named/.test(error.message));
}

const checks = {
  "openai: text": () => speaks(openai.chat("assistant")),
  "openai: tools": () => usesTools(openai.chat("assistant")),
  "openai: structured output": () => structures(openai.chat("assistant")),
  "openai: embeddings": () => embeds(openai.embedding("vectors")),
  "openai: completions": () => continues(openai.completion("assistant")),
  "openai: errors": () => fails(openai.chat("nobody")),
  "openai: responses": () => speaks(openai.responses("assistant")),
  "openai: responses with tools": () => usesTools(openai.responses("assistant")),
  "openai: responses with structured output": () => structures(openai.responses("assistant")),
  "compatible: text": () => speaks(compatible.chatModel("assistant")),
  "compatible: tools": () => usesTools(compatible.chatModel("assistant")),
  "compatible: structured output": () => structures(compatible.chatModel("assistant")),
  "compatible: embeddings": () => embeds(compatible.embeddingModel("vectors")),
  "compatible: completions": () => continues(compatible.completionModel("assistant")),
  "compatible: errors": () => fails(compatible.chatModel("nobody")),
};

for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`well    ${name}`);
  } catch (error) {
    process.exitCode = 1;
    console.log(`FAILED  ${name}: ${error.stack ?? error}`);
  }
}
