// Asked now, decided later: POST …/score:async, then GET …/decisions/{id} until the answer is there.
import http from 'k6/http';
import { sleep } from 'k6';
import { Trend } from 'k6/metrics';
import { begin, count, json, key, params, plan, rate, row, url } from './platform.js';
export { handleSummary, options } from './platform.js';

const answered = new Trend('answered_ms', true);

export default function () {
  const { counts, late_ms } = begin();
  const path = `/api/v2/models/${plan.model}/score:async`;
  const began = Date.now();
  const taken = http.post(url(path), JSON.stringify(row()), params('async', { 'Idempotency-Key': key() }));
  if (counts) count(taken, late_ms, []);
  if (taken.status !== 202) return;
  const poll = url(`/api/v2/decisions/${encodeURIComponent(json(taken)?.decision_id)}`);
  let found = taken;
  while (found.status === 202 && Date.now() - began < plan.wait_s * 1000) {
    sleep(Math.min(Number(found.headers['Retry-After']) || 1, plan.wait_s));
    found = http.get(poll, params('poll'));
  }
  if (!counts) return;
  rate('answered', found.status === 200);
  if (found.status === 200) answered.add(late_ms + Date.now() - began);
}
