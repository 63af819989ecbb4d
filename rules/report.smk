# Tables and figures, from result files alone. Each is a target by file name and by its own name. They come before all
# other jobs: a person may look at the first table while the rest is still computed. `update` keeps what was written
# before where a job fails.

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
        unpack(inputs_of("tables")),
    output:
        markdown=update(
            report(
                "<results>/tables/{table}.md",
                caption="../workflow/report/table.rst",
                category="Tables",
            )
        ),
        csv=update("<results>/tables/{table}.csv"),
        latex=update("<results>/tables/{table}.tex"),
        about=update("<results>/tables/{table}.json"),
    log:
        "<logs>/tables/{table}.log",
    benchmark:
        "<benchmarks>/tables/{table}.tsv"
    priority: AT_ONCE
    localrule: True
    conda:
        "../environment.yml"
    params:
        definition=definition_of("tables"),
    message:
        "writing table {wildcards.table}"
    shell:
        "ldae table --definition {params.definition:q} --dataset {input.dataset} --pixels {input.pixels}"
        " --probes {input.probes} --finetunes {input.finetunes} --distances {input.distances}"
        " --tokenizers {input.tokenizers} --out $(dirname {output.csv})/{wildcards.table} > {log} 2>&1"


rule figure:
    input:
        unpack(inputs_of("figures")),
    output:
        png=update(
            report(
                "<results>/figures/{figure}.png",
                caption="../workflow/report/figure.rst",
                category="Figures",
            )
        ),
        svg=update("<results>/figures/{figure}.svg"),
        csv=update("<results>/figures/{figure}.csv"),
        about=update("<results>/figures/{figure}.json"),
    log:
        "<logs>/figures/{figure}.log",
    benchmark:
        "<benchmarks>/figures/{figure}.tsv"
    priority: AT_ONCE
    localrule: True
    conda:
        "../environment.yml"
    params:
        definition=definition_of("figures"),
    message:
        "drawing {wildcards.figure}"
    shell:
        "ldae figure --definition {params.definition:q} --dataset {input.dataset} --pixels {input.pixels}"
        " --probes {input.probes} --distances {input.distances} --histories {input.histories}"
        " --pictures {input.pictures} --samples {input.samples} --tokenizers {input.tokenizers}"
        " --out $(dirname {output.csv})/{wildcards.figure} > {log} 2>&1"


if study.file.claims:

    rule claims:
        input:
            **files_of("claims", "tables/claims"),
        output:
            markdown=update(
                report(
                    "<results>/tables/claims.md",
                    caption="../workflow/report/claims.rst",
                    category="Claims",
                )
            ),
            csv=update("<results>/tables/claims.csv"),
            about=update("<results>/tables/claims.json"),
        log:
            "<logs>/tables/claims.log",
        benchmark:
            "<benchmarks>/tables/claims.tsv"
        priority: AT_ONCE
        localrule: True
        conda:
            "../environment.yml"
        params:
            definition=canonical(graph.jobs["tables/claims"].definition),
        message:
            "judging the paper's claims"
        shell:
            "ldae claims --definition {params.definition:q} --dataset {input.dataset} --pixels {input.pixels}"
            " --probes {input.probes} --distances {input.distances}"
            " --out $(dirname {output.csv})/claims > {log} 2>&1"


for name in ("cost", "cost_all"):

    rule:
        name:
            name
        input:
            read_by(f"tables/{name}"),
        output:
            markdown=update(f"<results>/tables/{name}.md"),
            csv=update(f"<results>/tables/{name}.csv"),
            about=update(f"<results>/tables/{name}.json"),
        log:
            f"<logs>/tables/{name}.log",
        benchmark:
            f"<benchmarks>/tables/{name}.tsv"
        priority: AT_ONCE
        localrule: True
        conda:
            "../environment.yml"
        params:
            name=name,
        message:
            "adding up the cost"
        shell:
            "ldae cost --results {input} --out $(dirname {output.csv})/{params.name} > {log} 2>&1"


for name, cost in (("report_main", "cost"), ("report", "cost_all")):

    rule:
        name:
            name
        input:
            read_by(name),
            cost=f"<results>/tables/{cost}.csv",
        output:
            page=update(f"<results>/{name}.html"),
            about=update(f"<results>/{name}.json"),
        log:
            f"<logs>/{name}.log",
        benchmark:
            f"<benchmarks>/{name}.tsv"
        localrule: True
        conda:
            "../environment.yml"
        params:
            definition=canonical(graph.jobs[name].definition),
        message:
            "writing the page"
        shell:
            "ldae report --definition {params.definition:q} --results $(dirname {output.page}) --cost {input.cost}"
            " --out {output.page} > {log} 2>&1"
