// One request, one decision: POST …/score.
import http from 'k6/http';
import { begin, count, json, key, params, plan, row, url } from './platform.js';
export { handleSummary, options } from './platform.js';

export default function () {
  const { counts, late_ms } = begin();
  const path = `/api/v2/models/${plan.model}/score`;
  const response = http.post(url(path), JSON.stringify(row()), params('score', { 'Idempotency-Key': key() }));
  if (!counts) return;
  const answer = response.status === 200 ? json(response) : null;
  count(response, late_ms, answer === null ? [] : [answer]);
}
