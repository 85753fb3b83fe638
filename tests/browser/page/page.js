// A page with Pipecat's own clients, which the tests drive by `window.talk`.
import { PipecatClient, RTVIEvent } from "@pipecat-ai/client-js";
import { SmallWebRTCTransport } from "@pipecat-ai/small-webrtc-transport";
import { WavMediaManager, WebSocketTransport } from "@pipecat-ai/websocket-transport";
import "./microphone.js";

const TRANSPORTS = {
  // Their usual media manager loads a script from the internet.
  webrtc: () =>
    new SmallWebRTCTransport({
      mediaManager: new WavMediaManager(),
      iceServers: [],
      waitForICEGathering: true,
    }),
  // The manager records 24,000 samples a second unless told otherwise; the transport says 16,000.
  websocket: () =>
    new WebSocketTransport({ mediaManager: new WavMediaManager(512, 16000), recorderSampleRate: 16000 }),
};

const room = new AudioContext({ sampleRate: 48000 });

// The ear hears what goes to the loudspeaker, by whatever context it goes there.
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (target, ...rest) {
  if (target instanceof AudioDestinationNode) window.talk.hear(this);
  return connect.call(this, target, ...rest);
};

class Talk {
  events = [];
  loudest = 0;

  constructor() {
    this.client = null;
  }

  prepare(transport) {
    this.client = new PipecatClient({
      transport: TRANSPORTS[transport](),
      enableMic: true,
      enableCam: false,
    });
    for (const event of Object.values(RTVIEvent)) {
      this.client.on(event, (data) => this.note(event, data));
    }
    this.client.on(RTVIEvent.TrackStarted, (track, participant) => this.listen(track, participant));
  }

  note(event, data) {
    if (event.endsWith("AudioLevel") || event === "trackStarted") return;
    this.events.push({ event, data: JSON.parse(JSON.stringify(data ?? null)) });
  }

  listen(track, participant) {
    if (participant?.local || track.kind !== "audio") return;
    const stream = new MediaStream([track]);
    // Chromium decodes a peer's track only when something plays it.
    const speaker = new Audio();
    speaker.srcObject = stream;
    speaker.play();
    this.hear(room.createMediaStreamSource(stream));
  }

  hear(node) {
    const ear = node.context.createAnalyser();
    connect.call(node, ear);
    const sound = new Float32Array(ear.fftSize);
    setInterval(() => {
      ear.getFloatTimeDomainData(sound);
      this.loudest = Math.max(this.loudest, ...sound);
    }, 50);
  }

  async refusal(action) {
    try {
      await action();
      return null;
    } catch (error) {
      return error.message ?? error.data?.message ?? JSON.stringify(error);
    }
  }
}

window.talk = new Talk();
