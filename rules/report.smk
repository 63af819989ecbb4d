# Tables, figures and pages, from result files alone. Each is a target by file name and by its own name. They come before
# all other jobs: a person may look at the first table while the rest is still computed. `update` keeps what was written
# before where a job fails.

for target, file in targets_of_views():

    rule:
        name:
            target
        input:
            file,
        localrule: True


rule table:
    input:
        inputs_of_view("tables/{0}"),
    output:
        update(
            report(
                "<results>/tables/{table}.md",
                caption="../workflow/report/table.rst",
                category="Tables",
            )
        ),
        update("<results>/tables/{table}.csv"),
        update("<results>/tables/{table}.tex"),
        update("<results>/tables/{table}.json"),
    log:
        "<logs>/tables/{table}.log",
    benchmark:
        "<benchmarks>/tables/{table}.tsv"
    priority: AT_ONCE
    localrule: True
    conda:
        "../environment.yml"
    params:
        options=options_of_view("tables/{0}"),
    message:
        "writing table {wildcards.table}"
    shell:
        "ldae table {params.options} > {log} 2>&1"


rule figure:
    input:
        inputs_of_view("figures/{0}"),
    output:
        update(
            report(
                "<results>/figures/{figure}.png",
                caption="../workflow/report/figure.rst",
                category="Figures",
            )
        ),
        update("<results>/figures/{figure}.svg"),
        update("<results>/figures/{figure}.csv"),
        update("<results>/figures/{figure}.json"),
    log:
        "<logs>/figures/{figure}.log",
    benchmark:
        "<benchmarks>/figures/{figure}.tsv"
    priority: AT_ONCE
    localrule: True
    conda:
        "../environment.yml"
    params:
        options=options_of_view("figures/{0}"),
    message:
        "drawing {wildcards.figure}"
    shell:
        "ldae figure {params.options} > {log} 2>&1"


if study.file.claims:

    rule claims:
        input:
            inputs_of_view("tables/claims"),
        output:
            update(
                report(
                    "<results>/tables/claims.md",
                    caption="../workflow/report/claims.rst",
                    category="Claims",
                )
            ),
            update("<results>/tables/claims.csv"),
            update("<results>/tables/claims.json"),
        log:
            "<logs>/tables/claims.log",
        benchmark:
            "<benchmarks>/tables/claims.tsv"
        priority: AT_ONCE
        localrule: True
        conda:
            "../environment.yml"
        params:
            options=options_of_view("tables/claims"),
        message:
            "judging the paper's claims"
        shell:
            "ldae claims {params.options} > {log} 2>&1"


rule variation:
    input:
        inputs_of_view("tables/claims_{0}"),
    output:
        update(
            report(
                "<results>/tables/claims_{variation}.md",
                caption="../workflow/report/claims.rst",
                category="Claims",
            )
        ),
        update("<results>/tables/claims_{variation}.csv"),
        update("<results>/tables/claims_{variation}.json"),
    log:
        "<logs>/tables/claims_{variation}.log",
    benchmark:
        "<benchmarks>/tables/claims_{variation}.tsv"
    priority: AT_ONCE
    localrule: True
    conda:
        "../environment.yml"
    params:
        options=options_of_view("tables/claims_{0}"),
    message:
        "judging the paper's claims under {wildcards.variation}"
    shell:
        "ldae variation {params.options} > {log} 2>&1"


rule cost_table:
    input:
        inputs_of_view("tables/{0}"),
    output:
        update("<results>/tables/{cost}.md"),
        update("<results>/tables/{cost}.csv"),
        update("<results>/tables/{cost}.json"),
    log:
        "<logs>/tables/{cost}.log",
    benchmark:
        "<benchmarks>/tables/{cost}.tsv"
    priority: AT_ONCE
    localrule: True
    conda:
        "../environment.yml"
    params:
        options=options_of_view("tables/{0}"),
    message:
        "adding up the cost"
    shell:
        "ldae cost {params.options} > {log} 2>&1"


rule page:
    input:
        inputs_of_view("{0}"),
    output:
        update("<results>/{page}.html"),
        update("<results>/{page}.json"),
    log:
        "<logs>/{page}.log",
    benchmark:
        "<benchmarks>/{page}.tsv"
    localrule: True
    conda:
        "../environment.yml"
    params:
        options=options_of_view("{0}"),
    message:
        "writing the page"
    shell:
        "ldae report {params.options} > {log} 2>&1"
