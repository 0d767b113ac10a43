// Reads {"language": "loki" | "tempo", "queries": {place: query}} and writes {place: where the first error is}.
import { readFileSync } from "node:fs";
import { parser as loki } from "@grafana/lezer-logql";
import { parser as tempo } from "@grafana/lezer-traceql";

const { language, queries } = JSON.parse(readFileSync(0, "utf8"));
const parser = { loki, tempo }[language];
const wrong = {};
for (const [place, query] of Object.entries(queries)) {
  parser.parse(query).iterate({
    enter(node) {
      if (node.type.isError && !(place in wrong)) wrong[place] = node.from;
    },
  });
}
process.stdout.write(JSON.stringify(wrong));
