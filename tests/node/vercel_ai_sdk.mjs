// Vercel's AI SDK against the LLM gateway, in three protocols: each streams a call of a tool, and
// then what the model says of its result. Prints what it got as one line of JSON.
// Arguments: the gateway's URL and a key.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [url, apiKey] = process.argv.slice(2);
const openai = createOpenAI({ apiKey, baseURL: `${url}/v1` });
const anthropic = createAnthropic({ apiKey, baseURL: `${url}/v1` });
const find_booking = tool({
  inputSchema: z.object({ name: z.string() }),
  execute: async ({ name }) => ({ found: typeof name }),
});

async function converse(model) {
  const result = streamText({
    model,
    prompt: "Find my booking.",
    tools: { find_booking },
    stopWhen: stepCountIs(2),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
    onError: ({ error }) => { throw error; },
  });
  const parts = [];
  for await (const part of result.fullStream) parts.push(part.type);
  const steps = await result.steps;
  return {
    tool: steps[0].toolCalls[0]?.toolName,
    result: steps[0].toolResults[0]?.output.found,
    text: steps[1]?.text,
    streamed: parts.filter((type) => type === "text-delta").length,
    outputTokens: (await result.totalUsage).outputTokens,
  };
}

const said = [];
for (const model of [
  openai.chat("gpt-4.1"), openai.responses("gpt-4.1"), anthropic("claude-haiku-4-5"),
]) said.push(await converse(model));
console.log(JSON.stringify(said));
