# All that is needed is Python, make and git: scripts/ground.sh gets the rest.
.PHONY: run check test mutate bench

run: ## the whole of Parley on this machine; PORT, HOST and DATA_DIR say where
	@exec sh scripts/ground.sh run

check: ## lint, format, types, imports, Django's checks, migrations
	@exec sh scripts/ground.sh check

test: ## all tests; WITHOUT="chromium bubblewrap" leaves some out, ARGS="-k fork" picks some, WORKERS=0 in one process
	@exec sh scripts/ground.sh test $(ARGS)

mutate: ## turn each layer of defence off in turn: the test named for it has to notice
	@exec sh scripts/ground.sh mutate $(ARGS)

bench: ## the figures of docs/performance.md
	@exec sh scripts/ground.sh bench $(ARGS)
