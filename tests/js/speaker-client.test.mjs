import assert from "node:assert/strict";
import { test } from "node:test";

import { Outbox } from "../../app/console/static/outbox.js";
import { SpeakerClient } from "../../app/console/static/speaker-client.js";
import { Clock, settled } from "./support/clock.mjs";
import { refusal, Server } from "./support/server.mjs";

const FRAME = 1_600;

class Doctor {
  said = [];
  events = [];
  #ids = 0;

  constructor({ capacity, random = () => 0.5 } = {}) {
    this.clock = new Clock();
    this.server = new Server();
    this.outbox = new Outbox(capacity);
    const { now, setTimeout, clearTimeout } = this.clock;
    const env = { openSocket: this.server.open, now, setTimeout, clearTimeout, random, uuid: () => `key-${(this.#ids += 1)}` };
    this.client = new SpeakerClient({ api: this.server.api, outbox: this.outbox, env, onEvent: (e) => this.events.push(e) });
  }

  async begin() {
    this.ended = this.client.start({ language: "en-US" });
    await settled();
    return this;
  }

  /** Capture one frame of recognisable samples and let its 100 ms pass. */
  async speak(frames = 1, { ack = true } = {}) {
    for (let i = 0; i < frames; i += 1) {
      const bytes = new Uint8Array(FRAME * 2);
      const view = new DataView(bytes.buffer);
      for (let s = 0; s < FRAME; s += 1) {
        view.setInt16(s * 2, this.said.length & 0x7fff, true);
        this.said.push(this.said.length & 0x7fff);
      }
      this.client.push(bytes);
      if (ack && this.server.socket && !this.server.socket.isClosed) this.server.ack();
      await this.clock.advance(100);
    }
  }

  get state() {
    return this.client.snapshot().state;
  }

  of(type) {
    return this.events.filter((event) => event.type === type);
  }
}

test("a consultation: create, stream, stop, completed", async () => {
  const doctor = await new Doctor().begin();
  const { server } = doctor;
  assert.equal(doctor.state, "live");
  assert.deepEqual(server.socket.protocols, ["kikitori.v1", "ticket.once-1"]);
  assert.equal(server.socket.url.searchParams.get("after"), "0");
  await doctor.speak(5);
  doctor.client.stop();
  assert.deepEqual(server.socket.texts.at(-1), { type: "stop", position: 5 * FRAME });
  server.complete();
  await doctor.ended;
  assert.equal(doctor.state, "completed");
  assert.deepEqual(server.pcm, doctor.said);
  assert.equal(doctor.of("completed")[0].lost, 0);
  assert.equal(doctor.client.snapshot().unsafe, 0);
});

test("what is said before there is a connection is sent first", async () => {
  const doctor = new Doctor();
  doctor.server.hold = true;
  await doctor.begin();
  await doctor.speak(30, { ack: false });
  assert.equal(doctor.state, "connecting");
  doctor.server.accept();
  assert.deepEqual(doctor.server.pcm, doctor.said);
});

test("nothing goes beyond the window, and an ack opens it", async () => {
  const doctor = new Doctor();
  doctor.server.window = 4_000;
  await doctor.begin();
  await doctor.speak(5, { ack: false });
  assert.equal(doctor.server.received, 4_000);
  doctor.server.ack();
  assert.equal(doctor.server.received, 8_000);
});

test("the window that was promised is never taken back", async () => {
  const doctor = new Doctor();
  doctor.server.window = 4_000;
  await doctor.begin();
  doctor.server.window = 0;
  doctor.server.ack();
  await doctor.speak(2, { ack: false });
  assert.equal(doctor.server.received, 3_200);
});

test("frames hold at most 65 536 bytes however much has waited", async () => {
  const doctor = new Doctor();
  doctor.server.hold = true;
  await doctor.begin();
  await doctor.speak(60, { ack: false });
  doctor.server.accept();
  const frames = doctor.server.socket.toServer.filter((item) => typeof item !== "string");
  assert.ok(frames.every((frame) => frame.length > 0 && frame.length <= 65_536));
  assert.equal(doctor.server.received, 60 * FRAME);
});

test("a slow network is not flooded", async () => {
  const doctor = await new Doctor().begin();
  doctor.server.socket.bufferedAmount = 200_000;
  await doctor.speak(3, { ack: false });
  assert.equal(doctor.server.received, 0);
  doctor.server.socket.bufferedAmount = 0;
  await doctor.clock.advance(300);
  assert.equal(doctor.server.received, 3 * FRAME);
});

for (const code of [1001, 1006, 1011, 1012, 4408, 4413, 4500, 4503]) {
  test(`resumes after ${code} with the resume ticket, from where the server is`, async () => {
    const doctor = await new Doctor().begin();
    const { server } = doctor;
    await doctor.speak(10);
    server.final(1);
    server.ack({ durable: 5 * FRAME });
    server.die(code);
    await settled();
    assert.equal(doctor.state, "reconnecting");
    await doctor.speak(40);
    assert.equal(doctor.state, "live");
    assert.equal(server.sockets.length, 2);
    assert.deepEqual(server.socket.protocols, ["kikitori.v1", "ticket.resume"]);
    assert.equal(server.socket.url.searchParams.get("after"), "1");
    assert.deepEqual(server.pcm, doctor.said);
    assert.equal(server.calls.length, 1, "resuming asks nothing of REST");
  });
}

test("ten deaths at random moments lose and double nothing", async () => {
  for (let seed = 1; seed <= 20; seed += 1) {
    let state = seed;
    const random = () => (state = (state * 48_271) % 2_147_483_647) / 2_147_483_647;
    const doctor = await new Doctor({ random }).begin();
    const { server } = doctor;
    for (let death = 0; death < 10; death += 1) {
      await doctor.speak(1 + Math.floor(random() * 20));
      await doctor.clock.advance(9_000);
      const durable = server.durable + Math.floor(random() * (server.received - server.durable));
      server.ack({ durable });
      server.die();
      await doctor.speak(Math.floor(random() * 5), { ack: false });
    }
    await doctor.clock.advance(9_000);
    doctor.client.stop();
    assert.deepEqual(server.pcm, doctor.said, `seed ${seed}`);
    server.complete();
    await doctor.ended;
  }
});

test("finals come once and in order, across a resume that repeats them", async () => {
  const doctor = await new Doctor().begin();
  const { server } = doctor;
  server.final(1);
  server.final(2);
  server.socket.say(server.finals[1]);
  server.die();
  await doctor.clock.advance(1_000);
  server.socket.say(server.finals[0]);
  server.final(3);
  assert.deepEqual(doctor.of("final").map((event) => event.message.seq), [1, 2, 3]);
});

test("finals that the server lost are taken back and come again", async () => {
  const doctor = await new Doctor().begin();
  const { server } = doctor;
  for (const seq of [1, 2, 3]) server.final(seq);
  server.socket.say({ type: "notice", code: "finals_rewound", message: "", seq: 1 });
  assert.equal(doctor.of("rewound")[0].seq, 1);
  server.final(2, "again");
  assert.equal(doctor.of("final").at(-1).message.text, "again");
});

test("a socket that is silent for 3 s while audio is sent is dead; what it says later is ignored", async () => {
  const doctor = await new Doctor().begin();
  const old = doctor.server.socket;
  old.isDeaf = true;
  await doctor.speak(29, { ack: false });
  assert.equal(doctor.state, "live");
  await doctor.speak(10, { ack: false });
  assert.equal(doctor.state, "live");
  assert.notEqual(doctor.server.socket, old);
  assert.ok(old.isClosed);
  assert.equal(old.onmessage, null);
  assert.deepEqual(doctor.server.pcm, doctor.said);
});

test("a connection without audio is kept alive by pings, and dies when they are not answered", async () => {
  const doctor = await new Doctor().begin();
  await doctor.clock.advance(10_000);
  assert.equal(doctor.server.sockets.length, 1);
  const pings = doctor.server.socket.texts;
  assert.ok(pings.length >= 5 && pings.every(({ type, id }) => type === "ping" && Number.isInteger(id)));
  doctor.server.socket.isDeaf = true;
  await doctor.clock.advance(6_000);
  assert.equal(doctor.server.sockets.length, 2);
});

test("a machine that slept reads its messages before it calls the socket dead", async () => {
  const doctor = await new Doctor().begin();
  await doctor.speak(1, { ack: false });
  doctor.clock.sleep(60_000);
  await doctor.clock.advance(300);
  assert.equal(doctor.server.sockets.length, 1);
});

test("an upgrade that is never answered is given up after 10 s", async () => {
  const doctor = new Doctor();
  doctor.server.hold = true;
  await doctor.begin();
  await doctor.clock.advance(11_000);
  assert.equal(doctor.server.sockets.length, 2);
  assert.equal(doctor.server.socket.ticket, "once-2", "the first ticket may have been used up");
});

test("a server that is going away is used until it closes, and left for as long as it asks", async () => {
  const doctor = await new Doctor().begin();
  doctor.server.socket.say({ type: "draining", reconnectInMs: 3_000 });
  await doctor.speak(3);
  assert.equal(doctor.server.received, 3 * FRAME);
  assert.equal(doctor.client.snapshot().draining, true);
  doctor.server.socket.end(1012);
  await doctor.clock.advance(2_900);
  assert.equal(doctor.server.sockets.length, 1);
  await doctor.clock.advance(400);
  assert.equal(doctor.server.sockets.length, 2);
  assert.equal(doctor.client.snapshot().draining, false);
});

test("stop is said after the last sample, once on each connection, until completed", async () => {
  const doctor = new Doctor();
  doctor.server.window = FRAME;
  await doctor.begin();
  const { server } = doctor;
  await doctor.speak(2, { ack: false });
  doctor.client.stop();
  assert.deepEqual(server.socket.texts, []);
  server.ack();
  assert.deepEqual(server.socket.texts, [{ type: "stop", position: 2 * FRAME }]);
  server.ack();
  assert.equal(server.socket.texts.length, 1);
  server.die(1012);
  await doctor.clock.advance(1_000);
  server.ack();
  assert.deepEqual(server.socket.texts, [{ type: "stop", position: 2 * FRAME }]);
  server.complete();
  await doctor.ended;
});

test("audio after stop is not taken", async () => {
  const doctor = await new Doctor().begin();
  await doctor.speak(1);
  doctor.client.stop();
  doctor.client.push(new Uint8Array(3_200));
  assert.equal(doctor.client.snapshot().captured, FRAME);
});

test("an ack of what was never sent releases nothing", async () => {
  const doctor = await new Doctor().begin();
  await doctor.speak(2, { ack: false });
  doctor.server.socket.say({ type: "ack", received: 9 * FRAME, durable: 9 * FRAME, window: 1 });
  await settled();
  assert.equal(doctor.client.snapshot().unsafe, 2 * FRAME);
  assert.equal(doctor.state, "failed");
  assert.equal(doctor.client.snapshot().code, "bad_ack");
});

test("a session that went on elsewhere is told, not mixed", async () => {
  const doctor = await new Doctor().begin();
  await doctor.speak(2);
  doctor.server.pcm.push(...new Array(50_000).fill(0));
  doctor.server.socket.end(1006);
  await doctor.clock.advance(1_000);
  assert.equal(doctor.state, "failed");
  assert.equal(doctor.client.snapshot().code, "position_mismatch");
});

test("a session that the server had finished says what of it is lost", async () => {
  const doctor = await new Doctor().begin();
  const { server } = doctor;
  await doctor.speak(3);
  server.hold = true;
  server.socket.end(1006);
  await doctor.speak(4, { ack: false });
  server.window = 0;
  server.accept();
  server.complete();
  await doctor.ended;
  assert.equal(doctor.of("completed")[0].lost, 4 * FRAME);
});

test("4409 ends it here: another device has it", async () => {
  const doctor = await new Doctor().begin();
  doctor.server.socket.say({ type: "error", code: "superseded", message: "", retryable: false });
  doctor.server.socket.end(4409);
  await doctor.ended;
  assert.equal(doctor.state, "superseded");
  await doctor.clock.advance(60_000);
  assert.equal(doctor.server.sockets.length, 1);
});

test("4401 waits for a new sign-in, keeps the audio, then takes a fresh ticket", async () => {
  const doctor = await new Doctor().begin();
  const { server } = doctor;
  await doctor.speak(2);
  server.socket.end(4401);
  await settled();
  assert.equal(doctor.state, "sign_in");
  await doctor.speak(20, { ack: false });
  assert.equal(server.sockets.length, 1);
  doctor.client.retry();
  await settled();
  assert.equal(server.socket.ticket, "once-2");
  assert.deepEqual(server.pcm, doctor.said);
});

for (const code of [4400, 4403, 4429, 1009, 1000]) {
  test(`${code} waits for the user, and nothing is forgotten`, async () => {
    const doctor = await new Doctor().begin();
    await doctor.speak(2);
    doctor.server.socket.end(code);
    await settled();
    assert.equal(doctor.state, "failed");
    assert.equal(doctor.client.snapshot().code, `close_${code}`);
    doctor.client.retry();
    await settled();
    assert.equal(doctor.state, "live");
    assert.deepEqual(doctor.server.pcm, doctor.said);
  });
}

test("creating is repeated with the same key until the server answers, no sooner than it asks", async () => {
  const doctor = new Doctor();
  const { server } = doctor;
  const answers = [refusal(0, "unreachable"), refusal(503, "busy", 5_000), refusal(409, "idempotency_in_flight")];
  server.refuse = () => answers.shift() ?? null;
  await doctor.begin();
  await doctor.clock.advance(1_000);
  assert.equal(server.calls.length, 2);
  await doctor.clock.advance(4_000);
  assert.equal(server.calls.length, 2, "Retry-After holds");
  await doctor.clock.advance(5_000);
  assert.equal(doctor.state, "live");
  assert.deepEqual(new Set(server.calls.map(({ key }) => key)), new Set(["key-1"]));
});

test("a refusal to create is told", async () => {
  const doctor = new Doctor();
  doctor.server.refuse = () => refusal(422, "unsupported_language");
  await doctor.begin();
  const { state, code, detail } = doctor.client.snapshot();
  assert.deepEqual({ state, code, detail }, { state: "failed", code: "unsupported_language", detail: "said unsupported_language" });
  doctor.client.abandon();
  await doctor.ended;
  assert.equal(doctor.state, "abandoned");
});

test("an expired token asks for sign-in before anything else, and audio waits", async () => {
  const doctor = new Doctor();
  doctor.server.refuse = () => refusal(401, "token_expired");
  await doctor.begin();
  assert.equal(doctor.state, "sign_in");
  await doctor.speak(3);
  doctor.server.refuse = null;
  doctor.client.retry();
  await settled();
  assert.deepEqual(doctor.server.pcm, doctor.said);
});

test("refused resumes lead to a fresh ticket once nobody is live", async () => {
  const doctor = await new Doctor().begin();
  const { server } = doctor;
  server.hold = true;
  server.die();
  for (let i = 0; i < 2; i += 1) {
    await doctor.clock.advance(3_000);
    server.socket.end(1006);
  }
  server.hold = false;
  await doctor.clock.advance(3_000);
  assert.match(server.socket.ticket, /^once-/);
  assert.equal(doctor.state, "live");
});

test("refused resumes while somebody is live never push that one out unasked", async () => {
  const doctor = await new Doctor().begin();
  const { server } = doctor;
  server.hold = true;
  server.socket.end(1006);
  for (let i = 0; i < 4; i += 1) {
    await doctor.clock.advance(9_000);
    assert.equal(server.socket.ticket, "resume");
    server.socket.end(1006);
  }
  await doctor.clock.advance(9_000);
  assert.equal(doctor.state, "failed");
  assert.equal(doctor.client.snapshot().code, "refused_live");
  server.hold = false;
  doctor.client.retry();
  await settled();
  assert.equal(server.socket.ticket, "once-2");
});

test("an expired token does not stop a resume, which needs none", async () => {
  const doctor = await new Doctor().begin();
  const { server } = doctor;
  server.hold = true;
  server.die();
  server.refuse = () => refusal(401, "token_expired");
  for (let i = 0; i < 3; i += 1) {
    await doctor.clock.advance(9_000);
    server.socket.end(1006);
  }
  server.hold = false;
  await doctor.clock.advance(9_000);
  assert.equal(doctor.state, "live");
});

test("attempts come slower and slower, spread, and never slower than 8 s; a healthy connection begins anew", async () => {
  const doctor = await new Doctor({ random: () => 0.999 }).begin();
  const { server } = doctor;
  const times = [];
  server.hold = true;
  server.socket.end(1006);
  server.refuse = () => refusal(0, "unreachable");
  for (let i = 0; i < 8; i += 1) {
    const sockets = server.sockets.length;
    const began = doctor.clock.now();
    while (server.sockets.length === sockets) await doctor.clock.advance(50);
    times.push(doctor.clock.now() - began);
    server.socket.end(1006);
  }
  assert.ok(times.every((time, i) => i === 0 || time >= times[i - 1]));
  assert.ok(times[0] <= 300 && times.at(-1) <= 8_050, String(times));
  server.hold = false;
  await doctor.clock.advance(9_000);
  await doctor.speak(1);
  assert.equal(doctor.client.snapshot().attempts, 0);
});

test("the network coming back ends the wait", async () => {
  const doctor = await new Doctor().begin();
  doctor.server.die(4503);
  await settled();
  doctor.client.retry();
  await settled();
  assert.equal(doctor.state, "live");
});

test("a full outbox turns the newest away and says so; what was kept still arrives", async () => {
  const doctor = new Doctor({ capacity: 3 * FRAME });
  doctor.server.hold = true;
  await doctor.begin();
  await doctor.speak(5, { ack: false });
  assert.equal(doctor.client.snapshot().refused, 2 * FRAME);
  doctor.server.accept();
  assert.deepEqual(doctor.server.pcm, doctor.said.slice(0, 3 * FRAME));
});

test("conditions last until something shows that they are over", async () => {
  const doctor = await new Doctor().begin();
  const { server } = doctor;
  await doctor.speak(2);
  for (const code of ["engine_waiting", "archive_degraded"]) server.socket.say({ type: "notice", code, message: "" });
  assert.deepEqual(doctor.client.snapshot().conditions, ["engine_waiting", "archive_degraded"]);
  server.socket.say({ type: "partial", id: "r-1", start: 0, end: 1, text: "a" });
  server.ack({ durable: 0 });
  assert.deepEqual(doctor.client.snapshot().conditions, ["archive_degraded"]);
  server.ack({ durable: FRAME });
  assert.deepEqual(doctor.client.snapshot().conditions, []);
});

test("a condition outlives a resume on the same owner, which does not tell it again, and ends with another", async () => {
  const doctor = await new Doctor().begin();
  const { server } = doctor;
  server.socket.say({ type: "notice", code: "archive_degraded", message: "" });
  server.socket.end(1006);
  await doctor.clock.advance(1_000);
  assert.deepEqual(doctor.client.snapshot().conditions, ["archive_degraded"]);
  server.socket.say({ type: "notice", code: "archive_recovered", message: "" });
  server.socket.say({ type: "notice", code: "engine_degraded", message: "" });
  assert.deepEqual(doctor.client.snapshot().conditions, ["engine_degraded"]);
  server.epoch = 2;
  server.die();
  await doctor.clock.advance(1_000);
  assert.deepEqual(doctor.client.snapshot().conditions, []);
});
