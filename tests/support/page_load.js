// What is under way in a page while networks fail: streams of events, a download and an upload, whose bytes are compared.
//
// A test evaluates this file in the page that the signal server serves, whose modules it uses.

window.meet = async (code, stun) => {
  const [{ parseInvite }, { Peer }] = await Promise.all([import("/core/invite.js"), import("/peer/peer.js")]);
  /** Each change of phase or path, and when. */
  window.told = [];
  const changed = () => {
    const { phase, path } = peer.state;
    const last = window.told.at(-1);
    if (last?.phase !== phase || last?.path !== path) {
      window.told.push({ phase, path, at: performance.now() });
    }
  };
  const peer = new Peer(parseInvite(code), { changed, ...(stun ? { stun } : {}) });
  window.peer = peer;
};

const PIECE = 32_768;
const text = new TextDecoder();

async function hashOf(pieces) {
  const hash = await crypto.subtle.digest("SHA-256", await new Blob(pieces).arrayBuffer());
  return Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Read a response's pieces, and note the longest pause between two of them. */
async function read(target, pulse) {
  const { status, body } = await window.peer.request({ target });
  if (status !== 200) {
    throw new Error(`status ${status}`);
  }
  const pieces = [];
  for await (const piece of body) {
    pieces.push(piece);
    pulse();
  }
  return pieces;
}

/** Random bytes over that time, and all of them. */
function paced(size, seconds, pulse) {
  const pieces = [];
  const stream = new ReadableStream({
    async pull(controller) {
      const left = size - pieces.length * PIECE;
      if (left <= 0) {
        controller.close();
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, (seconds * 1000 * PIECE) / size));
      const piece = crypto.getRandomValues(new Uint8Array(Math.min(PIECE, left)));
      pieces.push(piece);
      controller.enqueue(piece);
      pulse();
    },
  });
  return { stream, pieces };
}

window.load = ({ seconds, size, hash }) => {
  window.ended = null;
  window.begun = 0;
  let worst = 0;
  const newPulse = () => {
    let last = null;
    return () => {
      const now = performance.now();
      window.begun += last === null ? 1 : 0;
      worst = Math.max(worst, last === null ? 0 : (now - last) / 1000);
      last = now;
    };
  };
  const count = Math.round(seconds / 0.1);
  const tokens = async (name) => {
    const came = text.decode(await new Blob(await read(`/tokens?name=${name}&count=${count}`, newPulse())).arrayBuffer());
    const sent = Array.from({ length: count }, (_, number) => `data: ${name} ${number}\n\n`).join("");
    return came === sent ? "" : `${name}: ${came.length} characters in place of ${sent.length}`;
  };
  const download = async () => {
    const pieces = await read(`/download?size=${size}&seconds=${seconds}`, newPulse());
    return (await hashOf(pieces)) === hash ? "" : "the download is not what was sent";
  };
  const upload = async () => {
    const { stream, pieces } = paced(size, seconds, newPulse());
    const { body } = await window.peer.request({ method: "POST", target: "/upload", body: stream });
    return (await new Response(body).text()) === (await hashOf(pieces)) ? "" : "the upload is not what was sent";
  };
  const parts = [download(), upload(), ...["one", "two", "three", "four"].map(tokens)];
  window.parts = parts.length;
  Promise.all(parts.map((part) => part.catch((error) => `${error.name}: ${error.message}`))).then((broken) => {
    window.ended = { worst, broken: broken.filter((each) => each !== "") };
  });
};

/** Send that many bytes as fast as they go; the seconds until serve has answered. */
window.upload = async (size) => {
  const pieces = Array(size / 50_000).fill(crypto.getRandomValues(new Uint8Array(50_000)));
  const began = performance.now();
  const { body } = await window.peer.request({ method: "POST", target: "/upload", body: new Blob(pieces) });
  if ((await new Response(body).text()) !== (await hashOf(pieces))) {
    throw new Error("the upload is not what was sent");
  }
  return (performance.now() - began) / 1000;
};
