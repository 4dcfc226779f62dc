/**
 * What the keeper does for WebSockets: it passes messages between the shell and the documents and workers of its origin.
 *
 * A BroadcastChannel reaches every kind of document and worker. Each of them, a realm, has a channel of its own:
 *
 *     realm            holds the Web Lock with the name of its channel, until it dies
 *     realm -> keeper  {realm: UUID}, on the channel that all share
 *     keeper -> realm  {kind: "welcome"}, on the realm's own channel; the keeper waits for the lock
 *     both             messages (`socket.js`), which the keeper passes as {realm, message}
 *     keeper -> shell  {realm, message: {kind: "gone"}}, once the keeper has the lock
 */

const SHARED = "~llmtunnel.sockets";
const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/**
 * Pass messages over this port from now on.
 *
 * @param {MessagePort} port
 */
export function passSockets(port) {
  /** @type {Map<string, BroadcastChannel>} */
  const channels = new Map();
  const shared = new BroadcastChannel(SHARED);
  shared.onmessage = ({ data }) => {
    const realm = data?.realm;
    if (typeof realm === "string" && UUID.test(realm) && !channels.has(realm)) {
      channels.set(realm, join(realm, port, () => channels.delete(realm)));
    }
  };
  port.onmessage = ({ data: { realm, message } }) => channels.get(realm)?.postMessage(message);
  shared.postMessage({ keeper: true }); // to a realm that was here first
}

/**
 * Connect a realm with the shell, until it has died.
 *
 * @param {string} realm
 * @param {MessagePort} port
 * @param {() => void} left
 */
function join(realm, port, left) {
  const name = `~llmtunnel.socket.${realm}`;
  const channel = new BroadcastChannel(name);
  channel.onmessage = ({ data }) => {
    const bytes = data?.data instanceof Uint8Array ? [data.data.buffer] : [];
    port.postMessage({ realm, message: data }, bytes);
  };
  navigator.locks.request(name, () => {
    port.postMessage({ realm, message: { kind: "gone" } });
    channel.close();
    left();
  });
  channel.postMessage({ kind: "welcome" });
  return channel;
}
