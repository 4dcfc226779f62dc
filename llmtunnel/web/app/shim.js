/**
 * Runs before an app's own code in each of its documents and workers: a classic script, whose text is put there.
 *
 * It makes what a service worker cannot take go another way, or fail with a message in the console. What must not be
 * possible at all is blocked by the fields of `policy.js`, since an app's scripts can undo what happens here.
 */
(() => {
  "use strict"; // not above: a worker's own script follows, in the mode that it chooses

  const scope = /** @type {any} */ (globalThis);
  if (scope.llmtunnelShim) {
    return;
  }
  Object.defineProperty(scope, "llmtunnelShim", { value: true });
  const inDocument = typeof document !== "undefined";
  const own = scope.origin;

  /** @param {string} text */
  const refuse = (text) => {
    console.error(`llmtunnel: ${text}`);
    return new DOMException(text, "NotSupportedError");
  };

  /**
   * @param {object} target
   * @param {string} name
   * @param {any} descriptor
   */
  const define = (target, name, descriptor) => {
    Object.defineProperty(target, name, { configurable: true, enumerable: true, ...descriptor });
  };

  const refuseSynchronous = (/** @type {any} */ realm) => {
    const { prototype } = realm.XMLHttpRequest;
    const { open } = prototype;
    define(prototype, "open", {
      writable: true,
      /** @param {any[]} given */
      value(...given) {
        if (given.length > 2 && !given[2]) {
          throw refuse("Synchronous XMLHttpRequest is not possible through the tunnel. Use fetch().");
        }
        return Reflect.apply(open, this, given);
      },
    });
  };

  const refuseServiceWorkers = (/** @type {any} */ realm) => {
    const text = "An app's own service worker is not possible through the tunnel.";
    const { prototype } = realm.ServiceWorkerContainer;
    define(prototype, "register", { value: () => Promise.reject(refuse(text)), writable: true });
    define(prototype, "getRegistration", { value: () => Promise.resolve(undefined), writable: true });
    define(prototype, "getRegistrations", { value: () => Promise.resolve([]), writable: true });
    define(prototype, "controller", { get: () => null });
    define(prototype, "ready", { get: () => new Promise(() => {}) });
  };

  /**
   * Keep what may outlive its document on the way to the worker. Firefox passes it by with `keepalive`, but not if that
   * is in a Request. Chromium does with `fetchLater`.
   */
  const guardLateRequests = (/** @type {any} */ realm) => {
    const { Request: Made, fetch: send } = realm;
    const replaced = {
      /** @param {any[]} given */
      async fetch(...given) {
        return Reflect.apply(send, realm, given[1]?.keepalive ? [new Made(...given)] : given);
      },
    };
    define(realm, "fetch", { value: replaced.fetch, writable: true });
    delete realm.fetchLater;
  };

  /** It would go to the server of the page, past the worker. */
  const refuseWebTransport = (/** @type {any} */ realm) => {
    if (realm.WebTransport !== undefined) {
      const construct = (/** @type {any} */ target, /** @type {any[]} */ given, /** @type {any} */ made) => {
        const base = inDocument ? document.baseURI : own;
        if (URL.canParse(given[0], base) && new URL(given[0], base).host === new URL(own).host) {
          throw refuse("WebTransport is not possible through the tunnel.");
        }
        return Reflect.construct(target, given, made);
      };
      realm.WebTransport = new Proxy(realm.WebTransport, { construct });
    }
  };

  /**
   * Treat an empty frame like a document. Where the worker does not answer for it, as in Chromium, it loads nothing.
   *
   * @param {any} realm
   */
  const guard = (realm) => {
    try {
      if (realm === null || realm.llmtunnelShim || realm.llmtunnelGuard || !realm.location.href.startsWith("about:")) {
        return;
      }
      const { controller } = realm.navigator.serviceWorker;
      // Not the shim's own mark: the frame's first document may get the same window.
      Object.defineProperty(realm, "llmtunnelGuard", { value: true });
      refuseSynchronous(realm);
      refuseServiceWorkers(realm);
      guardLateRequests(realm);
      refuseWebTransport(realm);
      if (controller === null) {
        const policy = realm.document.createElement("meta");
        policy.httpEquiv = "Content-Security-Policy";
        policy.content = "default-src 'unsafe-inline' 'unsafe-eval' data: blob:";
        realm.document.head.append(policy);
      }
    } catch {
      // a frame of another site
    }
  };

  const guardFrames = () => {
    const { prototype } = HTMLIFrameElement;
    const inner = /** @type {() => Window | null} */ (Object.getOwnPropertyDescriptor(prototype, "contentWindow")?.get);
    define(prototype, "contentWindow", {
      get() {
        const realm = inner.call(this);
        guard(realm);
        return realm;
      },
    });
    const content = /** @type {() => Document | null} */ (
      Object.getOwnPropertyDescriptor(prototype, "contentDocument")?.get
    );
    define(prototype, "contentDocument", {
      get() {
        guard(inner.call(this));
        return content.call(this);
      },
    });
  };

  /** Let this script run in workers that are made of a Blob, as in all others. */
  const wrapBlobWorkers = (/** @type {string} */ code) => {
    /** @type {Map<string, Blob>} */
    const blobs = new Map();
    const { createObjectURL, revokeObjectURL } = URL;
    /** @type {Map<string, string>} */
    const wrapped = new Map();
    URL.createObjectURL = (object) => {
      const url = createObjectURL.call(URL, object);
      if (object instanceof Blob) {
        blobs.set(url, object);
      }
      return url;
    };
    URL.revokeObjectURL = (url) => {
      blobs.delete(url);
      revokeObjectURL.call(URL, url);
      const inner = wrapped.get(url);
      if (inner !== undefined) {
        wrapped.delete(url);
        setTimeout(() => revokeObjectURL.call(URL, inner), 10_000); // the worker may not have read it yet
      }
    };
    const withCode = (/** @type {string | URL} */ url) => {
      const blob = blobs.get(`${url}`);
      if (blob === undefined) {
        return url;
      }
      const inner = wrapped.get(`${url}`) ?? createObjectURL.call(URL, new Blob([code, "\n", blob], { type: blob.type }));
      wrapped.set(`${url}`, inner);
      return inner;
    };
    for (const name of ["Worker", "SharedWorker"]) {
      const native = scope[name];
      if (native !== undefined) {
        const construct = (/** @type {any} */ target, /** @type {any[]} */ [url, ...rest], /** @type {any} */ made) =>
          Reflect.construct(target, [withCode(url), ...rest], made);
        scope[name] = new Proxy(native, { construct });
      }
    }
  };

  /** The keeper's window: same origin, and the outermost but one. */
  const findKeeper = () => {
    for (let at = scope.window; at !== at.parent; at = at.parent) {
      try {
        if (at.llmtunnelKeeper) {
          return at.llmtunnelKeeper;
        }
      } catch {
        // a frame of another site lies between
      }
    }
    for (let number = 0; number < scope.top.length; number += 1) {
      try {
        if (scope.top[number].llmtunnelKeeper) {
          return scope.top[number].llmtunnelKeeper;
        }
      } catch {
        // not ours
      }
    }
    return null;
  };

  const answerCookies = (/** @type {any} */ keeper) => {
    define(Document.prototype, "cookie", {
      get: () => keeper.cookies(location.pathname),
      set: (/** @type {unknown} */ text) => keeper.setCookie(`${text}`, location.pathname),
    });
    for (const name of ["cookieStore", "CookieStore", "CookieStoreManager"]) {
      delete scope[name];
    }
  };

  /**
   * Links that leave the frame: a browser would load files past the worker, and permits no new windows here.
   *
   * @param {any} keeper
   */
  const takeLinks = (keeper) => {
    /**
     * Whether a click on the link is ours, and done.
     *
     * @param {HTMLAnchorElement} link
     */
    const took = (link, modified = false) => {
      const url = new URL(link.href, document.baseURI);
      const target = link.target || document.querySelector("base[target]")?.getAttribute("target") || "";
      if (url.protocol !== "http:" && url.protocol !== "https:") {
        return false;
      }
      if (url.origin !== own) {
        keeper.offer(url.href);
      } else if (link.hasAttribute("download")) {
        keeper.save(url.pathname + url.search, link.download);
      } else if (modified || isOutside(target)) {
        (target === "_top" ? outermost : scope).location.assign(url.href);
      } else {
        return false;
      }
      return true;
    };
    let outermost = scope.window;
    while (!outermost.parent.llmtunnelKeeper && outermost.parent !== outermost) {
      outermost = outermost.parent;
    }
    /** Whether a target is a new window, or one around the app. */
    const isOutside = (/** @type {string} */ target) => {
      const lower = target.toLowerCase();
      if (lower === "_top" || lower === "_parent") {
        return lower === "_top" || outermost === scope.window;
      }
      return lower !== "" && lower !== "_self" && (lower === "_blank" || scope[target]?.window === undefined);
    };
    const linkOf = (/** @type {Event} */ event) =>
      /** @type {HTMLAnchorElement | undefined} */ (
        event.composedPath().find((each) => each instanceof HTMLAnchorElement && each.href !== "")
      );
    /** @param {MouseEvent} event */
    const clicked = (event) => {
      const link = linkOf(event);
      const modified = event.button === 1 || event.ctrlKey || event.metaKey || event.shiftKey;
      if (link !== undefined && !event.defaultPrevented && event.button < 2 && took(link, modified)) {
        event.preventDefault();
      }
    };
    addEventListener("click", clicked);
    addEventListener("auxclick", clicked);
    // An element outside the document is clicked by scripts only, and its event does not come here.
    const { click, dispatchEvent } = HTMLElement.prototype;
    const apart = (/** @type {HTMLAnchorElement} */ link) => !link.isConnected && link.href !== "" && took(link);
    define(HTMLAnchorElement.prototype, "click", {
      writable: true,
      value() {
        if (!apart(this)) {
          click.call(this);
        }
      },
    });
    define(HTMLAnchorElement.prototype, "dispatchEvent", {
      writable: true,
      value(/** @type {Event} */ event) {
        return event.type === "click" && apart(this) ? true : dispatchEvent.call(this, event);
      },
    });
    const { submit } = HTMLFormElement.prototype;
    const keepInside = (/** @type {HTMLFormElement} */ form) => isOutside(form.target) && form.removeAttribute("target");
    define(HTMLFormElement.prototype, "submit", {
      writable: true,
      value() {
        keepInside(this);
        submit.call(this);
      },
    });
    addEventListener("submit", ({ target }) => void (target instanceof HTMLFormElement && keepInside(target)));
    const { open } = scope;
    scope.open = (/** @type {string} */ url = "", target = "_blank", features = "") => {
      const to = new URL(url, document.baseURI);
      if (url === "" || !isOutside(target)) {
        return open.call(scope, url, target, features);
      }
      if (to.origin !== own && /^https?:$/.test(to.protocol)) {
        keeper.offer(to.href);
      } else if (to.origin === own) {
        location.assign(to.href);
      } else {
        refuse("New windows are not possible through the tunnel.");
      }
      return null;
    };
  };

  refuseWebTransport(scope);
  if (!inDocument) {
    return;
  }
  const script = document.currentScript;
  const code = script?.textContent ?? "";
  script?.remove();
  refuseSynchronous(scope);
  refuseServiceWorkers(scope);
  guardLateRequests(scope);
  guardFrames();
  wrapBlobWorkers(code);
  const keeper = findKeeper();
  // Without a referrer, the worker cannot tell the navigations of a document from those of other sites.
  addEventListener("DOMContentLoaded", () => {
    if (document.querySelector("meta[name=referrer i]") !== null) {
      document.head.append(Object.assign(document.createElement("meta"), { name: "referrer", content: "same-origin" }));
    }
  });
  if (keeper !== null) {
    answerCookies(keeper);
    takeLinks(keeper);
  }
})();
