// Streams a PCM file through Amazon's client and prints, as one line of JSON, what came of it.
// Usage: node transcribe.mjs '{"endpoint", "secret", "pcm", "session", "pace", "patience"}'
import { readFileSync } from "node:fs";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { StartStreamTranscriptionCommand, TranscribeStreamingClient } from "@aws-sdk/client-transcribe-streaming";

const CHUNK_BYTES = 3200;
const given = JSON.parse(process.argv[2]);
const pcm = readFileSync(given.pcm);
const told = { finals: [], partials: 0, outcome: "finished", error: "", message: "", status: 0 };

async function* audio() {
  for (let at = 0; at < pcm.length; at += CHUNK_BYTES) {
    yield { AudioEvent: { AudioChunk: pcm.subarray(at, at + CHUNK_BYTES) } };
    await sleep(given.pace * 1000);
  }
}

async function transcribe() {
  const client = new TranscribeStreamingClient({
    region: "us-west-2",
    endpoint: given.endpoint,
    credentials: { accessKeyId: "AKIDEXAMPLE", secretAccessKey: given.secret },
    maxAttempts: 1,
  });
  const answer = await client.send(
    new StartStreamTranscriptionCommand({
      LanguageCode: "en-US",
      MediaEncoding: "pcm",
      MediaSampleRateHertz: 16000,
      SessionId: given.session || undefined,
      AudioStream: audio(),
    }),
  );
  for await (const event of answer.TranscriptResultStream) {
    for (const result of event.TranscriptEvent?.Transcript?.Results ?? []) {
      if (result.IsPartial) told.partials += 1;
      else told.finals.push([result.StartTime, result.EndTime, result.Alternatives[0].Transcript]);
    }
  }
}

function leave() {
  console.log(JSON.stringify(told));
  process.exit(0);
}

setTimeout(() => {
  told.outcome = "nothing more";
  leave();
}, given.patience * 1000);
try {
  await transcribe();
} catch (error) {
  Object.assign(told, {
    outcome: "error",
    error: error.name,
    message: error.message,
    status: error.$metadata?.httpStatusCode ?? 0,
  });
}
leave();
