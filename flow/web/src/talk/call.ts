/** One call: joined over the public API, carried by Pipecat's own client. */
import { LogLevel, PipecatClient, RTVIEvent, type Transport } from "@pipecat-ai/client-js";
import { SmallWebRTCTransport } from "@pipecat-ai/small-webrtc-transport";
import { WavMediaManager, WebSocketTransport } from "@pipecat-ai/websocket-transport";
import type { Api } from "../shared/api";
import { Problem } from "../shared/problem";
import { after, type Conversation, NOTHING_SAID, type Told } from "./conversation";
import { loudness, TrackLevel } from "./level";
import { watchServer } from "./server_watch";

export type Way = "webrtc" | "websocket";

export interface CallSettings {
  join: { bot: Record<string, unknown>; [field: string]: unknown };
  /** Whether text is to be a turn like a spoken one. */
  takesText: boolean;
  /** The ways to try, one after the other. */
  ways: readonly Way[];
  microphone: string;
}

interface JoinAnswer {
  workflow_thread_id: string;
  connection: { connect_params: Record<string, unknown> };
}

/** How long a way may take: the last one, and one that another follows. */
const CONNECT_MS = 15_000;
const TRY_MS = 5_000;
// How fast the level of sound that is played from a socket falls when nothing more comes.
const FADE_MS = 250;

/** The sound of a WebSocket is not a track: its level is measured as it arrives. */
class Sound extends WavMediaManager {
  private level = 0;
  private at = 0;

  override bufferBotAudio(data: ArrayBuffer | Int16Array, id?: string): Int16Array {
    this.level = loudness(data instanceof Int16Array ? data : new Int16Array(data));
    this.at = performance.now();
    return super.bufferBotAudio(data, id);
  }

  now(): number {
    return this.level * Math.max(0, 1 - (performance.now() - this.at) / FADE_MS);
  }
}

export interface CallEvents {
  onConversation: (conversation: Conversation) => void;
  /** The connection is gone, and nobody hung up here. */
  onLost: (threadId: string) => void;
}

/** Nobody was reached over any of the ways. */
export class NotConnected extends Error {}

export class Call {
  readonly threadId: string;
  readonly way: Way;
  private conversation = NOTHING_SAID;
  private readonly speaker = new Audio();
  private callerLevel: TrackLevel | null = null;
  private botLevel: TrackLevel | Sound;
  private isOver = false;
  private isReady = false;
  private stopWatch = () => {};

  private constructor(
    threadId: string,
    way: Way,
    private readonly client: PipecatClient,
    private readonly transport: Transport,
    sound: Sound,
    private readonly events: CallEvents,
  ) {
    this.threadId = threadId;
    this.way = way;
    this.botLevel = sound;
    this.listen();
  }

  /**
   * Join and connect; the bot is ready when this is done.
   *
   * Throws a `Problem` where the server refuses, `NotConnected` where no way leads to the bot, and
   * what `signal` was aborted with.
   */
  static async start(
    api: Api,
    settings: CallSettings,
    events: CallEvents,
    signal: AbortSignal,
  ): Promise<Call> {
    for (const [tried, way] of settings.ways.entries()) {
      const rtvi = { metrics: true, allow: settings.takesText ? ["text"] : [] };
      const body = { ...settings.join, transport: { type: way, rtvi } };
      const joined = await api.post<JoinAnswer>("/api/bot/join", body);
      const call = Call.over(way, joined.workflow_thread_id, events);
      try {
        signal.throwIfAborted();
        const isLast = tried === settings.ways.length - 1;
        await call.connect(joined.connection.connect_params, settings.microphone, {
          within: isLast ? CONNECT_MS : TRY_MS,
          signal,
        });
        return call;
      } catch (error) {
        await call.giveUp(api);
        signal.throwIfAborted();
        if (error instanceof Problem) throw error;
        console.info(`No connection over ${way}.`, error);
      }
    }
    throw new NotConnected();
  }

  private static over(way: Way, threadId: string, events: CallEvents): Call {
    // The transports' usual manager of media loads a script from the internet. The rate is the one
    // that the WebSocket transport says of what it sends.
    const sound = new Sound(512, 16_000);
    const transport =
      way === "webrtc"
        ? new SmallWebRTCTransport({ mediaManager: sound, iceServers: [], waitForICEGathering: true })
        : new WebSocketTransport({ mediaManager: sound, recorderSampleRate: 16_000 });
    const client = new PipecatClient({ transport, enableMic: true, enableCam: false });
    client.setLogLevel(LogLevel.WARN);
    return new Call(threadId, way, client, transport, sound, events);
  }

  /** How loud both sides are now, from 0 to 1. */
  levels(): { caller: number; bot: number } {
    return { caller: this.callerLevel?.now() ?? 0, bot: this.botLevel.now() };
  }

  /** Silence is sent while one is muted, so that the bot knows that a turn is over. */
  mute(isMuted: boolean): void {
    const track = this.client.tracks().local.audio;
    if (track) track.enabled = !isMuted;
  }

  async type(text: string): Promise<void> {
    this.told({ type: "callerTyped", text });
    await this.client.sendText(text).catch((error: unknown) => this.refused(String(error)));
  }

  async hangUp(): Promise<void> {
    this.isOver = true;
    await this.close();
  }

  private async connect(
    params: Record<string, unknown>,
    microphone: string,
    limits: { within: number; signal: AbortSignal },
  ): Promise<void> {
    const late = AbortSignal.any([limits.signal, AbortSignal.timeout(limits.within)]);
    const aborted = new Promise<never>((_, reject) => {
      late.addEventListener("abort", () => reject(late.reason), { once: true });
    });
    await Promise.race([this.open(params, microphone, late), aborted]);
    this.isReady = true;
    if (this.way === "webrtc") {
      // Its types do not name it.
      const transport = this.transport as unknown as { pc: RTCPeerConnection | null };
      this.stopWatch = watchServer(() => transport.pc, () => void this.lost());
    }
    const track = this.client.tracks().local.audio;
    if (track) this.callerLevel = new TrackLevel(track);
  }

  private async open(
    params: Record<string, unknown>,
    microphone: string,
    late: AbortSignal,
  ): Promise<void> {
    await this.client.initDevices();
    if (microphone) await this.client.updateMic(microphone);
    // Given up meanwhile: the microphone was opened after all was closed.
    if (late.aborted) return this.close();
    await this.client.connect(params);
  }

  private async giveUp(api: Api): Promise<void> {
    this.isOver = true;
    await this.close();
    await api.post(`/api/bot/${this.threadId}/end`).catch(() => undefined);
  }

  private async close(): Promise<void> {
    this.stopWatch();
    const track = this.client.tracks().local.audio;
    await this.client.disconnect().catch(() => undefined);
    track?.stop();
    this.speaker.srcObject = null;
    this.callerLevel?.close();
    if (this.botLevel instanceof TrackLevel) this.botLevel.close();
    this.callerLevel = null;
  }

  private listen(): void {
    const { client } = this;
    const on = (event: RTVIEvent, type: "callerStarted" | "callerStopped" | "botStarted" | "botStopped") =>
      client.on(event as never, (() => this.told({ type })) as never);
    on(RTVIEvent.UserStartedSpeaking, "callerStarted");
    on(RTVIEvent.UserStoppedSpeaking, "callerStopped");
    on(RTVIEvent.BotStartedSpeaking, "botStarted");
    on(RTVIEvent.BotStoppedSpeaking, "botStopped");
    client.on(RTVIEvent.UserTranscript, ({ text, final }) =>
      this.told({ type: "callerSaid", text, final }),
    );
    client.on(RTVIEvent.BotOutput, (output) => this.told({ type: "botSaid", output }));
    client.on(RTVIEvent.ServerMessage, (message: { type?: string; secs?: number }) => {
      if (message.type === "turn-latency" && typeof message.secs === "number") {
        this.told({ type: "latency", secs: message.secs });
      }
    });
    client.on(RTVIEvent.TrackStarted, (track, participant) => {
      if (!participant?.local && track.kind === "audio") this.play(track);
    });
    client.on(RTVIEvent.MessageError, ({ data }) => this.refused((data as { error: string }).error));
    client.on(RTVIEvent.Disconnected, () => void this.lost());
  }

  private play(track: MediaStreamTrack): void {
    this.speaker.srcObject = new MediaStream([track]);
    void this.speaker.play();
    this.botLevel = new TrackLevel(track);
  }

  private async lost(): Promise<void> {
    if (this.isOver || !this.isReady) return;
    this.isOver = true;
    await this.close();
    this.events.onLost(this.threadId);
  }

  private refused(why: string): void {
    this.told({ type: "refused", why });
  }

  private told(told: Told): void {
    this.conversation = after(this.conversation, told);
    this.events.onConversation(this.conversation);
  }
}
