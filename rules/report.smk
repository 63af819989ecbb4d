# Tables and figures, from result files alone. Each is a target by file name and by its own name. These stages are cheap,
# so they name the code that they run as input and follow its every change.

READERS = ROOT / "ldae"

for kind, ending in (("tables", ".md"), ("figures", ".png")):
    for name in getattr(study.file, kind):

        rule:
            name:
                name
            input:
                f"<results>/{kind}/{name}{ending}",
            localrule: True


rule table:
    input:
        dataset="<results>/dataset/manifest.json",
        pixels="<results>/probe/pixels/probe.json",
        probes=probes_of("tables"),
        code=[READERS / name for name in ("tables.py", "results.py", "statistics.py")],
    output:
        markdown=report(
            "<results>/tables/{table}.md",
            caption="../workflow/report/table.rst",
            category="Tables",
        ),
        csv="<results>/tables/{table}.csv",
        latex="<results>/tables/{table}.tex",
    log:
        "<logs>/tables/{table}.log",
    benchmark:
        "<benchmarks>/tables/{table}.tsv"
    localrule: True
    conda:
        "../environment.yml"
    params:
        definition=definition_of("tables"),
    message:
        "writing table {wildcards.table}"
    shell:
        "ldae table --definition {params.definition:q} --dataset $(dirname {input.dataset})"
        " --pixels $(dirname {input.pixels}) --probes $(dirname {input.probes})"
        " --out $(dirname {output.csv})/{wildcards.table} > {log} 2>&1"


rule figure:
    input:
        dataset="<results>/dataset/manifest.json",
        pixels="<results>/probe/pixels/probe.json",
        probes=probes_of("figures"),
        code=[READERS / name for name in ("figures.py", "results.py", "statistics.py")],
    output:
        png=report(
            "<results>/figures/{figure}.png",
            caption="../workflow/report/figure.rst",
            category="Figures",
        ),
        svg="<results>/figures/{figure}.svg",
        csv="<results>/figures/{figure}.csv",
    log:
        "<logs>/figures/{figure}.log",
    benchmark:
        "<benchmarks>/figures/{figure}.tsv"
    localrule: True
    conda:
        "../environment.yml"
    params:
        definition=definition_of("figures"),
    message:
        "drawing {wildcards.figure}"
    shell:
        "ldae figure --definition {params.definition:q} --dataset $(dirname {input.dataset})"
        " --pixels $(dirname {input.pixels}) --probes $(dirname {input.probes})"
        " --out $(dirname {output.csv})/{wildcards.figure} > {log} 2>&1"


rule cost:
    input:
        results=results_of_default_rows(),
        code=READERS / "tables.py",
    output:
        markdown="<results>/tables/cost.md",
        csv="<results>/tables/cost.csv",
    log:
        "<logs>/tables/cost.log",
    benchmark:
        "<benchmarks>/tables/cost.tsv"
    localrule: True
    conda:
        "../environment.yml"
    message:
        "adding up the cost"
    shell:
        "ldae cost --results {input.results} --out $(dirname {output.csv})/cost > {log} 2>&1"
