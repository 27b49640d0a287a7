// Publishes what standard input lists, one JSON object a line: {subject, json | base64, msgId?}.
// Writes one line {seq, duplicate} for each, in the same order. NATS_URL says where, credentials included, and
// NATS_INBOX on which subjects this user may hear answers.
import { createInterface } from "node:readline";
import process from "node:process";
import { connect } from "@nats-io/transport-node";
import { jetstream } from "@nats-io/jetstream";

const url = new URL(process.env.NATS_URL);
const connection = await connect({
  servers: url.host,
  tls: url.protocol === "tls:" ? {} : undefined,
  inboxPrefix: process.env.NATS_INBOX,
  user: decodeURIComponent(url.username),
  pass: decodeURIComponent(url.password),
});
const js = jetstream(connection);
for await (const line of createInterface({ input: process.stdin })) {
  const { subject, json, base64, msgId } = JSON.parse(line);
  const payload = base64 === undefined ? JSON.stringify(json) : Buffer.from(base64, "base64");
  const { seq, duplicate } = await js.publish(subject, payload, msgId ? { msgID: msgId } : {});
  console.log(JSON.stringify({ seq, duplicate }));
}
await connection.drain();
