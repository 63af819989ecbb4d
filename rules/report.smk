# Tables and figures, from result files alone. Each is a target by file name and by its own name. These stages are cheap,
# so they name the code that they run as input and follow its every change, and come before all others: a person may
# look at the first table while the rest is still computed.

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
        dataset=dataset_of("tables"),
        pixels=pixels_of("tables"),
        probes=probes_of("tables"),
        finetunes=finetunes_of_table,
        distances=distances_of("tables"),
        tokenizers=tokenizers_of_table,
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
        dataset=dataset_of("figures"),
        pixels=pixels_of("figures"),
        probes=probes_of("figures"),
        distances=distances_of("figures"),
        histories=files_of_figure(["curves"], "pretrain", "history.csv"),
        pictures=files_of_figure(["noise", "denoising"], "denoise", "pictures.npz"),
        samples=files_of_figure(["samples"], "samples", "samples.npy"),
        tokenizers=fits_of_figure,
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


rule claims:
    input:
        dataset="<results>/dataset/manifest.json",
        pixels="<results>/probe/pixels/probe.json",
        probes=probes_for(names_of_claims()),
        distances=distances_for(names_of_claims()),
        code=[READERS / name for name in ("claims.py", "results.py", "statistics.py")],
    output:
        markdown=report(
            "<results>/tables/claims.md",
            caption="../workflow/report/claims.rst",
            category="Claims",
        ),
        csv="<results>/tables/claims.csv",
    log:
        "<logs>/tables/claims.log",
    benchmark:
        "<benchmarks>/tables/claims.tsv"
    priority: AT_ONCE
    localrule: True
    conda:
        "../environment.yml"
    params:
        definition=json.dumps(study.claims(), sort_keys=True, ensure_ascii=False),
    message:
        "judging the paper's claims"
    shell:
        "ldae claims --definition {params.definition:q} --dataset {input.dataset} --pixels {input.pixels}"
        " --probes {input.probes} --distances {input.distances}"
        " --out $(dirname {output.csv})/claims > {log} 2>&1"


for name, targets in (("cost", ["main"]), ("cost_all", ["main", "all"])):

    rule:
        name:
            name
        input:
            results=results_of(*targets),
            code=READERS / "tables.py",
        output:
            markdown=f"<results>/tables/{name}.md",
            csv=f"<results>/tables/{name}.csv",
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
            "ldae cost --results {input.results} --out $(dirname {output.csv})/{params.name} > {log} 2>&1"


for name, cost, targets in (
    ("report_main", "cost", ["main"]),
    ("report", "cost_all", ["main", "all"]),
):

    rule:
        name:
            name
        input:
            views=views_on_page(*targets),
            cost=f"<results>/tables/{cost}.csv",
            records=records_of(rows_on_page(*targets)),
            shared=shared_by(rows_on_page(*targets)),
            histories=first_of("pretrain", rows_on_page(*targets), "history.csv"),
            code=sorted((READERS / "report").glob("*.*")),
        output:
            f"<results>/{name}.html",
        log:
            f"<logs>/{name}.log",
        benchmark:
            f"<benchmarks>/{name}.tsv"
        localrule: True
        conda:
            "../environment.yml"
        params:
            definition=json.dumps(
                study.page(*targets), sort_keys=True, ensure_ascii=False
            ),
        message:
            "writing the page"
        shell:
            "ldae report --definition {params.definition:q} --results $(dirname {output}) --cost {input.cost}"
            " --out {output} > {log} 2>&1"
