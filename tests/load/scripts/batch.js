// Many requests at once: POST …/score:batch. Each item is a decision, durable when the answer comes.
import http from 'k6/http';
import { begin, count, json, key, params, plan, row, url } from './platform.js';
export { handleSummary, options } from './platform.js';

export default function () {
  const { counts, late_ms } = begin();
  const path = `/api/v2/models/${plan.model}/score:batch`;
  const requests = Array.from({ length: plan.items }, (_, offset) => (
    { ...row(offset), idempotency_key: key(offset) }
  ));
  const response = http.post(url(path), JSON.stringify({ requests }), params('batch'));
  if (!counts) return;
  const results = (response.status === 200 && json(response)?.results) || [];
  const problems = results.filter((result) => result.problem).map(({ problem }) => problem.status);
  // an item that fails counts as a request that fails
  const status = Math.max(response.status, ...problems);
  const answers = results.filter((result) => result.answer).map(({ answer }) => answer);
  count({ timings: response.timings, status }, late_ms, answers);
}
