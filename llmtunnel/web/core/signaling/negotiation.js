/**
 * Who connects to whom: what happened in the room goes in, what to do comes out. Pure.
 *
 *     1. joined       earlier members will make offers; a member with a live link is recognised by its instance and kept
 *     2. peer-joined  we were here before: make an offer, unless that member's link is live
 *     3. offer        answer it, unless the link is live
 *     4. peer-left    suspect the member: the signal server alone ends no session, and a ping decides
 *
 * Mirrors `llmtunnel/signaling/negotiation.py`, which says what a link is. tests/web runs its tests with this one.
 */

/** @typedef {import("./messages.js").IceCandidate} IceCandidate */
/** @typedef {import("./messages.js").Joined} Joined */
/** @typedef {import("./messages.js").Member} Member */
/** @typedef {import("./messages.js").Message} Message */
/** @typedef {import("./messages.js").Role} Role */

/** Maximum number of remembered members of a room, a limit for a hostile server. */
const MEMBERS = 256;

/**
 * What to do. `suspect` says with `gone` that the member's process seems to have ended.
 *
 * @typedef {{do: "make-offer", member: Member}
 *   | {do: "make-answer", member: Member, sdp: string}
 *   | {do: "take-answer", peerId: string, sdp: string}
 *   | {do: "take-candidate", peerId: string, candidate: IceCandidate}
 *   | {do: "take-ticket", peerId: string, ticket: string}
 *   | {do: "suspect", peerId: string, gone: boolean}
 *   | {do: "rename", old: string, new: string}} Instruction
 */

/** One member's view of the room, across all of its signalling connections. */
export class Negotiation {
  #role;
  /** @type {Map<string, Member>} */
  #members = new Map();
  /** @type {Map<string, {member: Member, live: boolean}>} */
  #links = new Map();

  /** @param {Role} role Ours. */
  constructor(role) {
    this.#role = role;
  }

  /** Whether the room has no member that we could connect to. */
  get alone() {
    return this.#members.size === 0;
  }

  /**
   * Return a member under its current id, or null if it is not in the room.
   *
   * @param {Member} member
   */
  present(member) {
    return [...this.#members.values()].find((each) => each.instance === member.instance) ?? null;
  }

  // -- what the room does with links

  /**
   * Note that a connection to this member is being made.
   *
   * @param {Member} member
   */
  linked(member) {
    this.#links.set(member.peerId, { member, live: false });
  }

  /**
   * Note that the connection is established.
   *
   * @param {string} peerId
   */
  established(peerId) {
    const link = this.#links.get(peerId);
    if (link) {
      link.live = true;
    }
  }

  /**
   * Note that the connection has ended.
   *
   * @param {string} peerId
   */
  unlinked(peerId) {
    this.#links.delete(peerId);
  }

  // -- messages from the signal server

  /**
   * Process our join. Links of members that are still here continue under their new ids.
   *
   * @param {Pick<Joined, "peers">} message
   */
  joined({ peers }) {
    this.#members = new Map(peers.filter((each) => this.#concerns(each)).map((each) => [each.peerId, each]));
    return [...this.#members.values()].flatMap((member) => this.#keep(member));
  }

  /**
   * Return what to do about one message.
   *
   * @param {Message} message
   * @returns {Instruction[]}
   */
  receive(message) {
    switch (message.kind) {
      case "peer-joined":
        if (!this.#concerns(message.member) || this.#members.size >= MEMBERS) {
          return [];
        }
        this.#members.set(message.member.peerId, message.member);
        return this.#peerJoined(message.member);
      case "peer-left":
        this.#members.delete(message.peerId);
        return this.#forLink({ do: "suspect", peerId: message.peerId, gone: message.abrupt });
      case "offer":
        return this.#offered(this.#members.get(message.peerId), message.sdp);
      case "answer":
        return this.#forLink({ do: "take-answer", peerId: message.peerId, sdp: message.sdp });
      case "candidate":
        return this.#forLink({ do: "take-candidate", peerId: message.peerId, candidate: message.candidate });
      case "pipe":
        return this.#forLink({ do: "take-ticket", peerId: message.peerId, ticket: message.ticket });
      default:
        return [];
    }
  }

  /**
   * Return the instruction if it is for a link that there is.
   *
   * @param {Instruction & {peerId: string}} instruction
   * @returns {Instruction[]}
   */
  #forLink(instruction) {
    return this.#links.has(instruction.peerId) ? [instruction] : [];
  }

  /**
   * Return whether a member matters to us: it has the other role, or none and so may have either.
   *
   * @param {Member} member
   */
  #concerns(member) {
    return member.role !== this.#role;
  }

  /**
   * @param {Member} member
   * @returns {Instruction[]}
   */
  #peerJoined(member) {
    const kept = this.#keep(member);
    if (kept.length > 0) {
      return kept;
    }
    const live = this.#live();
    if (this.#role === "proxy" && member.instance === null && live) {
      // An original server does not say who this is. If our serve's link is live, it is that serve which has returned.
      return [{ do: "suspect", peerId: live.member.peerId, gone: false }];
    }
    return [{ do: "make-offer", member }];
  }

  /**
   * @param {Member | undefined} member
   * @param {string} sdp
   * @returns {Instruction[]}
   */
  #offered(member, sdp) {
    if (member === undefined) {
      return [];
    }
    const live = this.#live();
    if (this.#role === "proxy" && live && live.member.instance === member.instance) {
      return [{ do: "suspect", peerId: live.member.peerId, gone: false }];
    }
    return [{ do: "make-answer", member, sdp }];
  }

  /**
   * Recognise a member with a live link by its instance.
   *
   * @param {Member} member
   * @returns {Instruction[]}
   */
  #keep(member) {
    if (member.instance === null) {
      return [];
    }
    for (const [old, link] of this.#links) {
      if (link.live && link.member.instance === member.instance) {
        this.#links.delete(old);
        link.member = member;
        this.#links.set(member.peerId, link);
        return [{ do: "rename", old, new: member.peerId }];
      }
    }
    return [];
  }

  #live() {
    return [...this.#links.values()].find((link) => link.live);
  }
}
