/** The microphone: from permission to frames. Knows no server and no page. */

const RATE = 16_000;
const FLUSH_MS = 500;

/** What the recogniser is made for is the voice as it is; a browser's own cleaning changes the signal and loses onsets. */
const CONSTRAINTS = {
  audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
};

/** `code` is one of `insecure`, `denied`, `none`, `in_use`, `unavailable`. */
export class MicrophoneError extends Error {
  constructor(code) {
    super(code);
    this.name = "MicrophoneError";
    this.code = code;
  }
}

const CODES = { NotAllowedError: "denied", SecurityError: "denied", NotFoundError: "none", NotReadableError: "in_use" };

/**
 * Ask for the microphone and begin.
 *
 * @param {object} handlers
 * @param {(bytes: Uint8Array, peak: number) => void} handlers.onFrame 1 600 samples (the last frame fewer), in order.
 * @param {() => void} handlers.onLost the microphone was unplugged or taken away; no frames follow.
 * @returns {Promise<Capture>} Rejects with MicrophoneError.
 */
export async function startCapture({ onFrame, onLost }) {
  if (!navigator.mediaDevices?.getUserMedia) throw new MicrophoneError("insecure");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia(CONSTRAINTS);
  } catch (error) {
    throw new MicrophoneError(CODES[error.name] ?? "unavailable");
  }
  const { context, source } = openContext(stream);
  try {
    await context.audioWorklet.addModule(new URL("./capture-worklet.js", import.meta.url));
  } catch (error) {
    // The server did not give the module out.
    if (error.name !== "AbortError") throw error;
    for (const track of stream.getTracks()) track.stop();
    throw new MicrophoneError("unavailable");
  }
  const node = new AudioWorkletNode(context, "kikitori-capture", { channelCount: 1, channelCountMode: "explicit" });
  source.connect(node);
  // A node that leads nowhere is not run by every browser; this one puts out silence.
  node.connect(context.destination);
  await context.resume();
  return new Capture({ stream, context, node, onFrame, onLost });
}

/** A context of 16 kHz where the browser resamples, else of the device's own rate. */
function openContext(stream) {
  const wanted = new AudioContext({ sampleRate: RATE });
  try {
    return { context: wanted, source: wanted.createMediaStreamSource(stream) };
  } catch (error) {
    if (error.name !== "NotSupportedError") throw error;
    wanted.close();
    const context = new AudioContext();
    return { context, source: context.createMediaStreamSource(stream) };
  }
}

class Capture {
  #stream;
  #context;
  #node;
  #onFlushed = () => {};

  constructor({ stream, context, node, onFrame, onLost }) {
    this.#stream = stream;
    this.#context = context;
    this.#node = node;
    node.port.onmessage = ({ data }) => {
      if (data.flushed) this.#onFlushed();
      else onFrame(new Uint8Array(data.pcm), data.peak);
    };
    for (const track of stream.getAudioTracks()) track.onended = onLost;
  }

  /** A phone suspends sound while a call comes in; ask it to go on. */
  wake() {
    if (this.#context.state !== "running") this.#context.resume();
  }

  /** End. Every frame of what was said until now has been handed over when this resolves. */
  async stop() {
    for (const track of this.#stream.getAudioTracks()) track.onended = null;
    await new Promise((resolve) => {
      this.#onFlushed = resolve;
      this.#node.port.postMessage("flush");
      setTimeout(resolve, FLUSH_MS);
    });
    this.#node.port.onmessage = null;
    for (const track of this.#stream.getTracks()) track.stop();
    await this.#context.close();
  }
}
