// OpenAI's SDK against the LLM gateway. Prints what it got as one line of JSON.
// Arguments: the gateway's URL, a key, a key whose team has no quota left.
import OpenAI, {
  AuthenticationError,
  NotFoundError,
  PermissionDeniedError,
  RateLimitError,
  UnprocessableEntityError,
  toFile,
} from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const [url, apiKey, spentKey] = process.argv.slice(2);
const client = new OpenAI({ apiKey, baseURL: `${url}/v1`, maxRetries: 0 });
const messages = [{ role: "user", content: "Hello!" }];
const model = "gpt-4.1";
const parameters = {
  type: "object",
  properties: { name: { type: "string" } },
  required: ["name"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "find_booking", parameters } }];
const said = {};

const whole = await client.chat.completions.create({ model, messages }).withResponse();
said.whole = whole.data.choices[0].message.content;
said.eventId = whole.response.headers.get("x-flow-event-id");
said.requestId = whole.data._request_id;

const stream = client.chat.completions.stream({
  model,
  messages,
  stream_options: { include_usage: true },
});
said.streamed = (await stream.finalChatCompletion()).choices[0].message.content;
said.streamedUsage = (await stream.totalUsage()).completion_tokens;

const calling = client.chat.completions.stream({ model, messages, tools, tool_choice: "required" });
const [call] = (await calling.finalChatCompletion()).choices[0].message.tool_calls;
said.tool = call.function.name;
said.arguments = typeof JSON.parse(call.function.arguments).name;

const pixel = `data:image/png;base64,${Buffer.alloc(64).toString("base64")}`;
const seen = await client.chat.completions.create({
  model: "google/gemini-2.5-flash",
  messages: [{
    role: "user",
    content: [{ type: "text", text: "And?" }, { type: "image_url", image_url: { url: pixel } }],
  }],
});
said.image = seen.choices[0].message.content;

const parsed = await client.chat.completions.parse({
  model,
  messages,
  response_format: zodResponseFormat(z.object({ topic: z.string() }), "insight"),
});
said.structured = typeof parsed.choices[0].message.parsed.topic;

const events = client.responses.stream({ model, input: "Hello!" });
said.response = (await events.finalResponse()).output_text;

const vectors = await client.embeddings.create({
  model: "text-embedding-3-small",
  input: ["A text.", "Another."],
});
said.embeddings = vectors.data.map((one) => one.embedding.length);

const speech = await client.audio.speech.create({
  model: "tts-1",
  voice: "alloy",
  input: "Hi!",
  response_format: "wav",
});
const sound = Buffer.from(await speech.arrayBuffer());
said.speechBytes = sound.byteLength;
const heard = await client.audio.transcriptions.create({
  model: "openai/whisper-1",
  file: await toFile(sound, "a.wav"),
});
said.heard = heard.text;

said.models = (await client.models.list()).data.some((one) => one.id === "openai/gpt-4.1");

async function refusal(kind, ask) {
  try {
    await ask();
  } catch (error) {
    return { isKind: error instanceof kind, code: error.code, after: retryAfter(error) };
  }
  return {};
}
const retryAfter = (error) => Number(error.headers?.get("retry-after") ?? 0);
const with_ = (options) => client.withOptions(options).chat.completions;
said.refusals = [
  await refusal(AuthenticationError, () => with_({ apiKey: "wrong" }).create({ model, messages })),
  await refusal(PermissionDeniedError, () =>
    with_({ baseURL: `${url}/small/v1` }).create({ model, messages })),
  await refusal(NotFoundError, () => with_({}).create({ model: "no-such-model", messages })),
  await refusal(UnprocessableEntityError, () => with_({}).create({ model: 7, messages })),
  // It says not to try again, which is believed though two more attempts are allowed.
  await refusal(RateLimitError, () =>
    with_({ apiKey: spentKey, maxRetries: 2 }).create({ model, messages })),
];

// The vendor says 429 once, and to come again in a second.
const begun = performance.now();
const patient = client.withOptions({ maxRetries: 1 });
said.afterWaiting = (await patient.chat.completions.create({ model: "gpt-4o", messages }))
  .choices[0].message.content;
said.waitedSecs = (performance.now() - begun) / 1000;

console.log(JSON.stringify(said));
