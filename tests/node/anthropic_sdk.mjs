// Anthropic's SDK against the LLM gateway. Prints what it got as one line of JSON.
// Arguments: the gateway's URL, a key, a key whose team has no quota left.
import Anthropic, {
  AuthenticationError,
  NotFoundError,
  PermissionDeniedError,
  RateLimitError,
} from "@anthropic-ai/sdk";

const [url, apiKey, spentKey] = process.argv.slice(2);
const client = new Anthropic({ apiKey, baseURL: url, maxRetries: 0 });
const model = "claude-haiku-4-5";
const ask = { model, max_tokens: 99, messages: [{ role: "user", content: "Hello!" }] };
const input_schema = {
  type: "object",
  properties: { name: { type: "string" } },
  required: ["name"],
};
const text = (message) => message.content.find((block) => block.type === "text")?.text;
const said = {};

const whole = await client.messages.create(ask).withResponse();
said.whole = text(whole.data);
said.eventId = whole.response.headers.get("x-flow-event-id");

said.streamed = text(await client.messages.stream(ask).finalMessage());

const tools = [{ name: "find_booking", input_schema }];
const calling = client.messages.stream({ ...ask, tools, tool_choice: { type: "any" } });
const call = (await calling.finalMessage()).content.find((block) => block.type === "tool_use");
said.tool = call?.name;
said.arguments = typeof call?.input.name;

const data = Buffer.alloc(64).toString("base64");
const source = { type: "base64", media_type: "image/png", data };
const content = [{ type: "image", source }, { type: "text", text: "And?" }];
const seen = await client.messages.create({ ...ask, messages: [{ role: "user", content }] });
said.image = text(seen);

said.counted = (await client.messages.countTokens({ model, messages: ask.messages })).input_tokens;
said.models = (await client.models.list()).data.some((one) => one.id === `anthropic/${model}`);

async function refusal(kind, made) {
  try {
    await made();
  } catch (error) {
    return { isKind: error instanceof kind, code: error.error?.error?.code };
  }
  return {};
}
const with_ = (options) => client.withOptions(options).messages;
said.refusals = [
  await refusal(AuthenticationError, () => with_({ apiKey: "wrong" }).create(ask)),
  await refusal(PermissionDeniedError, () =>
    with_({ baseURL: `${url}/calls` }).create(ask)),
  await refusal(NotFoundError, () => with_({}).create({ ...ask, model: "openai/gpt-4.1" })),
  await refusal(RateLimitError, () => with_({ apiKey: spentKey, maxRetries: 2 }).create(ask)),
];

// The vendor says 429 once, and to come again in a second.
const begun = performance.now();
const patient = client.withOptions({ maxRetries: 1 });
said.afterWaiting = text(await patient.messages.create({ ...ask, model: "claude-sonnet-4-5" }));
said.waitedSecs = (performance.now() - begun) / 1000;

console.log(JSON.stringify(said));
