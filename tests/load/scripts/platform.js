// What the scripts share: the plan that Python wrote, when a request is due, and what is counted.
import exec from 'k6/execution';
import { SharedArray } from 'k6/data';
import { Counter, Rate, Trend } from 'k6/metrics';

export const plan = JSON.parse(open(__ENV.PLAN));
export const options = plan.options;
const headers = {
  Authorization: `Bearer ${open(plan.key_file).trim()}`,
  'Content-Type': 'application/json',
};
const rows = new SharedArray('rows', () => JSON.parse(open(plan.rows_file)));

const requests = new Counter('requests');
const lost = new Counter('lost');
const decisions = new Counter('decisions');
const degraded = new Counter('degraded');
const lateness = new Trend('late_ms', true);
const latency = new Trend('latency_ms', true);
const duration = new Trend('duration_ms', true);
const rates = Object.fromEntries(plan.rates.map((name) => [name, new Rate(name)]));

// Milliseconds from the start of the schedule until its n-th request, counted from 1, is due: where
// the area under the rate reaches n.
function dueMs(n) {
  let before_s = 0, left = n;
  for (const { from_per_s: a, to_per_s: b, seconds } of plan.stages) {
    const area = ((a + b) / 2) * seconds;
    if (left <= area) {
      const slope = (b - a) / seconds;
      const root = Math.sqrt(Math.max(a * a + 2 * slope * left, 0));
      return (before_s + (root + a > 0 ? (2 * left) / (root + a) : 0)) * 1000;
    }
    left -= area;
    before_s += seconds;
  }
  return before_s * 1000;
}

// The schedule starts once k6 has its virtual users, by a time that no script is told: the least
// that a request of this user ever was behind. k6's clock has whole milliseconds, so that half of
// one is the least in the mean.
const HALF_MS = 0.5;
let least_ms = Infinity;

// Whether a request counts, which it does once the warm-up is over, and by how much it starts later
// than it is due.
export function begin() {
  if (plan.users !== null) {
    // a closed loop: nothing is due before the last answer
    return { counts: Date.now() - exec.scenario.startTime > plan.warm_up_s * 1000, late_ms: 0 };
  }
  const due_ms = dueMs(exec.scenario.iterationInTest + 1);
  const behind_ms = Date.now() - exec.scenario.startTime - due_ms;
  least_ms = Math.min(least_ms, behind_ms);
  const late_ms = Math.max(behind_ms - least_ms - HALF_MS, 0);
  return { counts: due_ms > plan.warm_up_s * 1000, late_ms };
}

export const url = (path) => plan.urls[exec.scenario.iterationInTest % plan.urls.length] + path;

// Of one decision, as the client library gives each: nothing that this test sends is answered twice.
export const key = (offset = 0) => `${plan.run}-${exec.scenario.iterationInTest}-${offset}`;

export function params(name, own = {}) {
  return { headers: { ...headers, ...own }, tags: { name }, timeout: `${plan.timeout_s}s` };
}

export function row(offset = 0) {
  const chosen = rows[(exec.scenario.iterationInTest * plan.items + offset) % rows.length];
  return { ...chosen, event_time: Date.now() };
}

export const json = (response) => {
  try { return JSON.parse(response.body); } catch { return null; }
};

// One HTTP request; the latency counts from when it was due. `answers` are the decisions in it.
export function count(response, late_ms, answers) {
  const took_ms = late_ms + response.timings.blocked + response.timings.connecting
    + response.timings.duration;
  requests.add(1);
  lateness.add(late_ms);
  latency.add(took_ms);
  duration.add(response.timings.duration);
  if (response.status === 0) lost.add(1);
  rate('availability', response.status > 0 && response.status < 500);
  rate('accepted', !(response.status >= 400 && response.status < 500));
  for (const answer of answers) {
    decisions.add(1);
    if (answer.degraded) degraded.add(1);
    rate('latency', took_ms <= plan.latency_slo_ms);
    rate('deadline', took_ms <= plan.deadline_ms);
    rate('freshness', answer.degraded?.reason !== 'features');
  }
}

export function rate(name, good) {
  if (name in rates) rates[name].add(good);
}

export function handleSummary(data) {
  return { [plan.summary_file]: JSON.stringify(data.metrics) };
}
