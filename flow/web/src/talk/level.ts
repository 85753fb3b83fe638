/** How loud something is, from 0 to 1, as ears take it: in decibels. */

const FLOOR_DB = -55;
const CEILING_DB = -12;

export function loudness(samples: Float32Array | Int16Array): number {
  const scale = samples instanceof Int16Array ? 32768 : 1;
  let sum = 0;
  for (const sample of samples) sum += (sample / scale) ** 2;
  const db = 10 * Math.log10(sum / Math.max(1, samples.length) + 1e-12);
  return Math.min(1, Math.max(0, (db - FLOOR_DB) / (CEILING_DB - FLOOR_DB)));
}

/** Measures a track for as long as it is asked. */
export class TrackLevel {
  private readonly context = new AudioContext();
  private readonly analyser = this.context.createAnalyser();
  private readonly samples: Float32Array<ArrayBuffer>;

  constructor(track: MediaStreamTrack) {
    this.analyser.fftSize = 1024;
    this.samples = new Float32Array(this.analyser.fftSize);
    this.context.createMediaStreamSource(new MediaStream([track])).connect(this.analyser);
  }

  now(): number {
    this.analyser.getFloatTimeDomainData(this.samples);
    return loudness(this.samples);
  }

  close(): void {
    void this.context.close();
  }
}
