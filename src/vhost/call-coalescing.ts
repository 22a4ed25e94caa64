/**
 * Puts calls to a busy guest off, so that one interrupt tells of more completions. As SPDK does it: a queue that
 * completes more than a given number of requests a second is called at most once per delay, which grows with what is
 * above that number. Below it, and by default, every round calls at once.
 */

/** How long completions are counted before the delay is judged again. */
const WINDOW_NS = 10_000_000;
const NS_PER_SECOND = 1e9;

export interface CoalescingSettings {
  /** Delay of a queue at twice the threshold; 0: calls are never put off. */
  readonly delayBaseUs: number;
  /** Requests a second up to which nothing is put off. */
  readonly iopsThreshold: number;
}

export const DEFAULT_COALESCING: CoalescingSettings = { delayBaseUs: 0, iopsThreshold: 60_000 };

export class CallCoalescing {
  #settings = DEFAULT_COALESCING;
  #windowStartNs = 0;
  #requestsBefore = 0;
  #delayNs = 0;
  #nextCallNs = 0;

  get isOn(): boolean {
    return this.#settings.delayBaseUs > 0;
  }

  set(settings: CoalescingSettings): void {
    this.#settings = settings;
    this.#delayNs = 0;
    this.#nextCallNs = 0;
  }

  /** True when a call that is due may be made now. `requests`: taken since the queue was made. */
  allows(nowNs: number, requests: number): boolean {
    if (nowNs - this.#windowStartNs >= WINDOW_NS) this.#judge(nowNs, requests);
    if (nowNs < this.#nextCallNs) return false;
    this.#nextCallNs = nowNs + this.#delayNs;
    return true;
  }

  #judge(nowNs: number, requests: number): void {
    const { delayBaseUs, iopsThreshold } = this.#settings;
    const iops = ((requests - this.#requestsBefore) * NS_PER_SECOND) / (nowNs - this.#windowStartNs);
    this.#delayNs = Math.max(0, (delayBaseUs * 1000 * (iops - iopsThreshold)) / iopsThreshold);
    this.#windowStartNs = nowNs;
    this.#requestsBefore = requests;
  }
}
