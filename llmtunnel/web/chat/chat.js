/** The chat: asks a model through the tunnel, and shows its answers as they come. */

import { ApiError, answer, listModels } from "./api.js";
import { Composer } from "./composer.js";
import { newAnswer, questionOf, turnsOf } from "./conversation.js";
import { MessageView } from "./message.js";
import { Pace } from "./pace.js";
import { editSettings } from "./settings.js";
import { Side } from "./side.js";
import { TunnelError } from "../core/errors.js";
import { composes, el, icon, iconButton } from "../shell/dom.js";

/** @typedef {import("./api.js").Kind} Kind */
/** @typedef {import("./api.js").Piece} Piece */
/** @typedef {import("./api.js").Requester} Requester */
/** @typedef {import("./conversation.js").Conversation} Conversation */
/** @typedef {import("./conversation.js").Message} Message */
/** @typedef {import("./library.js").Library} Library */

/** How far above the end the log may be and still follow a growing answer, in pixels. */
const NEAR_END = 80;
/** Maximum length of an answer, in characters. */
const LONGEST = 1_000_000;
/** Milliseconds after which a growing answer is saved again. */
const SAVE_EVERY = 2000;
const NO_MODEL = "The model server has no model yet. Load one there, with Ollama for example: ollama pull llama3.2";

const ENCRYPTED = "The model runs on the other machine. Messages go there end-to-end encrypted.";
const EDITING = "Sending replaces this message, and all that follow it.";

/** An answer that is being written. */
class Running {
  abort = new AbortController();

  /**
   * @param {Conversation} conversation
   * @param {Message} message
   */
  constructor(conversation, message) {
    this.conversation = conversation;
    this.message = message;
  }
}

/** Shows itself as `element`. Call `load` once, and `close` at the end. */
export class Chat {
  #peer;
  /** @type {Kind} */
  #kind;
  #key = "";
  #changed;
  #library;
  #side;
  #composer = new Composer({
    send: (text, images) => this.#send(text, images),
    stop: () => this.stop(),
    tell: (text) => this.#tell(text),
  });
  /** @type {Map<Message, MessageView>} */
  #views = new Map();
  /** @type {Running | null} */
  #running = null;
  /** The message that the composer's text replaces, with all that follow it. */
  /** @type {Message | null} */
  #edited = null;
  #model = el("select", { "aria-label": "Model", name: "model", change: () => this.#chooseModel() });
  #log = el("div", {
    ...{ class: "log", role: "log", "aria-live": "off", "aria-label": "Conversation", tabindex: "0" },
    scroll: () => this.#scrolled(),
  });
  /** Whether the log stays at its end while it grows, and where it was last. */
  #follows = true;
  #top = 0;
  #problem = el("p", { class: "problem", role: "alert" });
  #editing = el(
    "div",
    { class: "editing", hidden: true },
    el("p", {}, EDITING),
    el("button", { type: "button", click: () => this.#endEdit() }, "Cancel"),
  );
  #status = el("p", { class: "hidden", role: "status" });
  /** @type {string[]} */
  #models;
  /** Why there is no model to ask, while there is none. */
  #missing = NO_MODEL;

  /**
   * @param {Requester} peer
   * @param {object} options
   * @param {Library} options.library The conversations, which outlive this chat.
   * @param {Kind} options.kind
   * @param {string[]} options.models
   * @param {ApiError | null} [options.problem] Why the models cannot be listed.
   * @param {() => void} [options.changed] Called when `busy` has changed.
   */
  constructor(peer, { library, kind, models, problem = null, changed = () => {} }) {
    this.#peer = peer;
    this.#kind = kind;
    this.#models = models;
    this.#changed = changed;
    this.#library = library;
    library.failed = (error) => this.#tell(`Conversations cannot be kept on this device: ${error}.`);
    this.#side = new Side(library, {
      begin: () => this.#begin(),
      choose: (conversation) => this.#show(conversation),
      deleted: (conversation) => this.#deleted(conversation),
    });
    this.element = el(
      "main",
      {
        class: "chat",
        keydown: (/** @type {KeyboardEvent} */ event) => event.key === "Escape" && !composes(event) && this.#escape(),
        dragover: (/** @type {DragEvent} */ event) => event.preventDefault(),
        drop: (/** @type {DragEvent} */ event) => this.#composer.drop(event),
      },
      this.#side.element,
      el(
        "section",
        { class: "talk", "aria-label": "Chat", pointerdown: () => this.#side.close() },
        el(
          "div",
          { class: "tools" },
          iconButton("menu", "Conversations", () => this.#side.open()),
          el("span", { class: "select" }, this.#model),
          iconButton("redo", "Update the list of models", () => this.#loadModels()),
          el("span", { class: "space" }),
          iconButton("settings", "Chat settings", () => this.#editSettings()),
          iconButton("plus", "New chat", () => this.#begin()),
        ),
        this.#log,
        el("div", { class: "dock" }, this.#problem, this.#editing, this.#composer.element, this.#status),
      ),
    );
    new ResizeObserver(() => this.#toEnd()).observe(this.#log);
    if (problem !== null) {
      this.#missing = textOf(problem);
    }
    this.#showModels();
    this.#show(this.#library.current);
  }

  /** Whether an answer is being written. */
  get busy() {
    return this.#running !== null;
  }

  /** Load what is kept on this device. */
  async load() {
    await this.#library.load();
    this.#side.draw();
    if (matchMedia("(pointer: fine)").matches) {
      this.#composer.focus(); // a touch screen would show its keyboard
    }
  }

  /** Stop the answer: cancel the request, also at the model server, and keep what has come. */
  stop() {
    this.#running?.abort.abort();
  }

  /** Stop the answer, and keep of it what has come. */
  close() {
    if (this.#running !== null) {
      const { conversation, message } = this.#running;
      message.outcome = "stopped";
      this.#library.save(conversation);
      this.stop();
    }
    this.element.remove();
  }

  // -- conversations

  #begin() {
    this.#library.begin();
    this.#show(this.#library.current);
    this.#composer.focus();
  }

  /** @param {Conversation} conversation */
  #show(conversation) {
    this.#library.choose(conversation);
    this.#endEdit();
    this.#views.clear();
    this.#log.replaceChildren();
    conversation.messages.forEach((each) => this.#add(each));
    this.#showModels();
    this.#drawEnds();
    this.#side.draw();
    this.#follows = true;
    this.#toEnd();
  }

  /** @param {Conversation} conversation */
  #deleted(conversation) {
    if (this.#running?.conversation === conversation) {
      this.stop();
    }
    this.#show(this.#library.current);
  }

  /** @param {Message} message */
  #add(message) {
    const view = new MessageView(message, () => this.#toEnd());
    this.#views.set(message, view);
    this.#log.append(view.element);
  }

  /** Offer what can be done with each message now. */
  #drawEnds() {
    this.#keepFocus(() => this.#offer());
  }

  #offer() {
    const { messages } = this.#library.current;
    const last = messages.at(-1);
    for (const [message, view] of this.#views) {
      const idle = !this.busy;
      view.offer({
        ...(idle && message === last ? { regenerate: () => this.#regenerate() } : {}),
        ...(idle && message.role === "user" ? { edit: () => this.#edit(message) } : {}),
      });
    }
    this.#log.classList.toggle("empty", messages.length === 0);
    if (messages.length === 0) {
      this.#log.replaceChildren(this.#welcome());
    }
  }

  #welcome() {
    const { model } = this.#library.current;
    const settings = () => this.#editSettings();
    return el(
      "div",
      { class: "welcome" },
      el("div", { class: "mark" }, icon("chat")),
      el("h2", {}, model === "" ? "No model to ask" : `Ask ${model}`),
      el("p", {}, model === "" ? this.#missing : ENCRYPTED),
      ...(model === "" ? [el("button", { type: "button", click: settings }, "Chat settings")] : []),
    );
  }

  /**
   * Change the log. If the element in focus is gone then, the log has the focus: a keyboard would start at the page's top.
   *
   * @param {() => void} change
   */
  #keepFocus(change) {
    const held = this.#log.contains(document.activeElement);
    change();
    if (held && document.activeElement === document.body) {
      this.#log.focus({ preventScroll: true });
    }
  }

  // -- asking

  /**
   * @param {string} text
   * @param {string[]} images
   */
  #send(text, images) {
    const conversation = this.#library.current;
    if (this.busy) {
      this.#tell("Another answer is being written. Wait for its end, or stop it.");
      return false;
    }
    if (conversation.model === "") {
      this.#tell(this.#missing);
      return false;
    }
    if (this.#edited !== null) {
      this.#cutFrom(this.#edited);
      this.#setEdited(null);
    }
    if (conversation.messages.length === 0) {
      this.#log.replaceChildren();
    }
    const question = questionOf(text, images);
    conversation.messages.push(question);
    this.#add(question);
    this.#ask(conversation);
    return true;
  }

  #regenerate() {
    const conversation = this.#library.current;
    this.#endEdit();
    const last = conversation.messages.at(-1);
    if (last?.role === "assistant") {
      this.#cutFrom(last);
    }
    this.#ask(conversation);
  }

  /** @param {Message} message */
  #edit(message) {
    this.#setEdited(message);
    this.#composer.fill(message.text, message.images);
    this.#composer.focus();
    this.#status.textContent = EDITING;
  }

  /** @param {Message | null} message */
  #setEdited(message) {
    this.#edited = message;
    this.#editing.hidden = message === null;
  }

  /** Leave the message that is edited as it was. */
  #endEdit() {
    if (this.#edited !== null) {
      this.#setEdited(null);
      this.#composer.fill("", []);
      this.#composer.focus();
    }
  }

  /** Stop the answer, or else the editing of a message. */
  #escape() {
    if (this.busy) {
      this.stop();
    } else {
      this.#endEdit();
    }
  }

  /**
   * Remove a message of the current conversation, and all that follow.
   *
   * @param {Message} message
   */
  #cutFrom(message) {
    const { messages } = this.#library.current;
    const removed = messages.splice(messages.indexOf(message));
    this.#keepFocus(() => removed.forEach((each) => this.#views.get(each)?.element.remove()));
    removed.forEach((each) => this.#views.delete(each));
  }

  /**
   * Let the model answer the last message.
   *
   * @param {Conversation} conversation
   */
  async #ask(conversation) {
    const message = newAnswer(conversation.model);
    conversation.messages.push(message);
    this.#add(message);
    const running = new Running(conversation, message);
    this.#setRunning(running);
    this.#library.changed(conversation);
    this.#side.draw();
    this.#follows = true;
    this.#toEnd();
    try {
      await this.#read(running);
    } catch (error) {
      this.#failed(message, error, running.abort.signal.aborted);
    }
    this.#library.save(conversation); // unless the person has deleted it meanwhile
    this.#setRunning(null);
    this.#views.get(message)?.finish();
    this.#drawEnds();
    this.#side.draw();
    this.#status.textContent = message.outcome === "complete" ? "The answer is complete." : "The answer has ended.";
  }

  /** @param {Running} running */
  async #read({ conversation, message, abort }) {
    const pace = new Pace(performance.now() / 1000);
    const { model, temperature } = conversation;
    const { signal } = abort;
    const turns = turnsOf(conversation, message);
    const question = { kind: this.#kind, key: this.#key, model, temperature, turns, signal };
    let [end, saved] = ["", performance.now()];
    for await (const piece of answer(this.#peer, question)) {
      end ||= piece.kind === "end" ? piece.reason : "";
      take(piece, message, pace);
      message.figures = pace.figures;
      if (message.text.length + message.thoughts.length > LONGEST) {
        throw new ApiError(`It is longer than ${LONGEST} characters.`);
      }
      if (performance.now() - saved > SAVE_EVERY) {
        saved = performance.now();
        this.#library.save(conversation);
      }
      this.#views.get(message)?.changed();
    }
    message.outcome = { "": /** @type {const} */ ("incomplete"), length: /** @type {const} */ ("cut") }[end] ?? "complete";
  }

  /**
   * @param {Message} message
   * @param {unknown} error
   * @param {boolean} stopped
   */
  #failed(message, error, stopped) {
    message.outcome = stopped ? "stopped" : "incomplete";
    if (!stopped) {
      message.problem = message.text === "" ? textOf(error) : `This answer is incomplete. ${textOf(error)}`;
    }
  }

  /** @param {Running | null} running */
  #setRunning(running) {
    this.#running = running;
    this.#composer.setBusy(running !== null);
    this.#tell("");
    if (running !== null) {
      this.#status.textContent = "The model answers.";
      this.#drawEnds();
    }
    this.#changed();
  }

  /** Follow the end of the log until the person scrolls up, and again once they are back there. */
  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.#log;
    const near = scrollHeight - scrollTop - clientHeight < NEAR_END;
    this.#follows = near || (this.#follows && scrollTop >= this.#top);
    this.#top = scrollTop;
  }

  #toEnd() {
    if (this.#follows) {
      this.#log.scrollTop = this.#log.scrollHeight;
    }
  }

  // -- models and settings

  #showModels() {
    const { current } = this.#library;
    if (!this.#models.includes(current.model)) {
      current.model = this.#models[0] ?? "";
    }
    const names = this.#models.length > 0 ? this.#models : ["No model"];
    this.#model.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
    this.#model.disabled = this.#models.length === 0;
    this.#model.value = current.model || "No model";
  }

  #chooseModel() {
    this.#library.current.model = this.#model.value;
    this.#library.save(this.#library.current);
    this.#drawEnds();
  }

  async #loadModels() {
    let failed = "";
    try {
      const found = await listModels(this.#peer, { key: this.#key });
      if (found === null) {
        throw new ApiError("The server behind the tunnel has no chat API any more.");
      }
      this.#kind = found.kind;
      this.#models = found.models;
    } catch (error) {
      failed = textOf(error);
    }
    this.#missing = failed || NO_MODEL;
    this.#showModels();
    this.#drawEnds();
    const { model, messages } = this.#library.current;
    this.#tell(model === "" && messages.length === 0 ? "" : failed); // the empty log says it
    this.#status.textContent = failed || `Models: ${this.#models.length}`;
  }

  async #editSettings() {
    const { current } = this.#library;
    const settings = await editSettings({ ...current, key: this.#key });
    if (settings === null) {
      return;
    }
    const { key, ...others } = settings;
    Object.assign(current, others);
    this.#library.save(current);
    if (key !== this.#key) {
      this.#key = key;
      await this.#loadModels();
    }
  }

  /** @param {string} text */
  #tell(text) {
    this.#problem.textContent = text;
  }
}

/**
 * @param {Piece} piece
 * @param {Message} message
 * @param {Pace} pace
 */
function take(piece, message, pace) {
  switch (piece.kind) {
    case "text":
      message.text += piece.text;
      pace.piece(performance.now() / 1000);
      break;
    case "thought":
      message.thoughts += piece.text;
      pace.piece(performance.now() / 1000);
      break;
    case "usage":
      pace.usage(piece);
      break;
    case "end":
      break;
  }
}

/**
 * Return an error for people. One that is neither the tunnel's nor the model server's is a defect.
 *
 * @param {unknown} error
 */
function textOf(error) {
  if (error instanceof ApiError || error instanceof TunnelError) {
    return `${error.message} ${error.hint}`.trim();
  }
  return `An internal error ended the answer: ${error}. Please report this.`;
}
